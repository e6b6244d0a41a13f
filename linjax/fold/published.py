"""The published linearity-based fold (Dobler & Lemmerich 2025, arXiv 2506.21146).

Planning needs nothing but widths and numbers of units, so that a whole sweep of
thresholds is planned in no time; only the chosen folds touch kernels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linjax.chains.layers import Array, Layers, replaced
from linjax.chains.substitute import keep_units, substitute
from linjax.errors import warn
from linjax.fold.rules import PublishedSize, Threshold


class Widths(NamedTuple):
    """The sizes of one layer that planning needs.

    Attributes:
      down: rows of its bottleneck, 0 without one.
      reads: features that its kernel reads.
      main: those among them that don't come over the residual path.
      units: units with an activation.
      linears: linear units.
      residual: whether its features travel on.
    """

    down: int
    reads: int
    main: int
    units: int
    linears: int
    residual: bool


def widths(layers: Layers) -> tuple[Widths, ...]:
    """Returns the sizes of every layer."""
    result, main = [], layers[0].kernel.shape[0]
    for layer in layers:
        reads = layer.kernel.shape[0]
        bottleneck = 0 if layer.down is None else layer.down.shape[0]
        own = reads if bottleneck else min(main, reads)
        result.append(Widths(bottleneck, reads, own, layer.units, layer.linears, layer.residual))
        main = layer.units + layer.linears
    return tuple(result)


def saving(plan: tuple[Widths, ...], index: int, folded: int, gain: str = "reads") -> int:
    """Parameters saved by folding so many units of a layer.

    That is ``(p + q + 1) |S| − p q`` for a layer that reads p features, unless a residual
    path behind it grows with what it carries, too; so sizes are counted, not this formula.
    The authors' formula (``gain="published"``) has a residual kernel's columns where its
    rows are meant.
    """
    if gain != "published":
        return parameters(plan) - parameters(_fold_widths(plan, index, folded))
    layer, follower = plan[index], plan[index + 1]
    outputs = follower.units + follower.linears
    reads = layer.main + (layer.units if layer.reads > layer.main else 0)
    return (reads + outputs + 1) * folded - (0 if layer.residual else reads * outputs)


def _fold_widths(plan: tuple[Widths, ...], index: int, folded: int) -> tuple[Widths, ...]:
    """The sizes after folding so many units of a layer."""
    layer, result = plan[index], list(plan)
    result[index] = layer._replace(units=layer.units - folded, residual=True)
    for later in range(index + 1, len(plan)):
        before = result[later - 1]
        main = before.units + before.linears
        if result[later].down:
            rows = main + (before.reads if before.residual else 0)
            result[later] = result[later]._replace(down=rows)
            break
        result[later] = result[later]._replace(
            main=main, reads=main + (before.reads if before.residual else 0)
        )
    return tuple(result)


def plan_threshold(
    plan: tuple[Widths, ...], candidates: list[int], rule: Threshold
) -> tuple[tuple[Widths, ...], list[int]]:
    """Decides which layers fold, given how many units of each reach the threshold.

    Returns:
      The sizes afterwards, and the layers to fold in order.
    """
    chosen: list[int] = []
    open_layers = [i for i, folded in enumerate(candidates) if folded]
    if rule.greedy:
        while open_layers:
            gains = {i: saving(plan, i, candidates[i], rule.gain) for i in open_layers}
            best = max(open_layers, key=lambda i: gains[i])
            open_layers.remove(best)
            if _passes(rule, plan[best].units, candidates[best], gains[best]):
                plan = _fold_widths(plan, best, candidates[best])
                chosen.append(best)
        return plan, chosen
    for i in open_layers:
        if _passes(rule, plan[i].units, candidates[i], saving(plan, i, candidates[i], rule.gain)):
            plan = _fold_widths(plan, i, candidates[i])
            chosen.append(i)
    return plan, chosen


def _passes(rule: Threshold, units: int, folded: int, gain: int) -> bool:
    if rule.layers == "optimal":
        return gain > 0
    wanted = rule.layers * units if isinstance(rule.layers, float) else rule.layers
    return folded >= wanted


def parameters(plan: tuple[Widths, ...], skip_first: bool = False) -> int:
    """Counts the parameters of a plan, in its normal form."""
    total, moved = 0, 0
    for index, layer in enumerate(plan):
        last = index == len(plan) - 1
        if not last and layer.units == 0 and layer.linears == 0 and layer.residual:
            moved = moved or layer.down  # a bottleneck waits for the next layer
            continue
        rows = moved or layer.down
        outputs = layer.units + layer.linears
        size = rows * layer.reads + layer.reads * outputs + layer.units
        total += 0 if skip_first and index == 0 else size
        moved = 0
    return total


def fold_units(layers: Layers, index: int, folded: Array) -> Layers:
    """Replaces ``σ(z_S)`` by ``z_S`` for the units in a mask: the residual path takes over.

    Args:
      layers: a chain.
      index: a layer that isn't the last.
      folded: ``(k,)`` mask of the units S.
    """
    layer = layers[index]
    own, reads = layer.units + layer.linears, layer.kernel.shape[0]
    weights, kept = layer.kernel[:, folded], np.flatnonzero(~folded)
    linear = np.arange(layer.units, own)
    stay = np.concatenate([kept, linear])

    def pull(rows: Array) -> Array:
        carried = rows[own:] if layer.residual else 0.0
        return np.concatenate([rows[stay], carried + weights @ rows[: layer.units][folded]])

    offset = np.zeros(own + (reads if layer.residual else 0))
    offset[np.flatnonzero(folded)] = layer.bias[folded]
    narrowed = keep_units(layer, kept)._replace(residual=True)
    layers = replaced(layers, index, narrowed)
    return substitute(layers, index + 1, pull, offset)


def fold_published(layers: Layers, rates: list[Array], rule: Threshold) -> tuple[Layers, list[int]]:
    """Folds a chain by the published rule.

    Args:
      layers: the chain.
      rates: activation rates of every layer's units but the last.
      rule: a threshold.

    Returns:
      The folded chain, and the layers that folded.
    """
    masks = [r >= rule.rate for r in rates]
    _, chosen = plan_threshold(widths(layers), [int(m.sum()) for m in masks], rule)
    for index in chosen:
        layers = fold_units(layers, index, masks[index])
    return layers, chosen


def lowered(chains: Sequence[tuple[Layers, list[Array]]], rule: PublishedSize) -> Threshold:
    """Finds the highest threshold, one for all chains, at which they meet a size together.

    That of the smallest size, with a warning, if none does.

    Args:
      chains: each with its activation rates, as for :func:`fold_published`.
      rule: the size.
    """
    plans = [(widths(layers), [np.sort(r) for r in rates]) for layers, rates in chains]
    skip = rule.counted == "without_first"
    least = whole = sum(parameters(plan, skip) for plan, _ in plans)
    levels = np.unique(np.concatenate([[0.0], *(r for _, rates in plans for r in rates)]))[::-1]
    best = Threshold(1.0, "optimal", rule.greedy, rule.gain)
    for level in levels[levels >= 0.0]:  # units that can't fold by rate have one below
        trial, size = best._replace(rate=float(level)), 0
        for plan, rates in plans:
            counts = [int(len(r) - np.searchsorted(r, level)) for r in rates]
            size += parameters(plan_threshold(plan, counts, trial)[0], skip)
        if size <= rule.fraction * whole:
            return trial
        if size < least:
            best, least = trial, size
    if chains:
        warn(
            f"{rule}: no threshold leaves so few parameters; the least, {least / whole:.3g}, it "
            "is; linjax.size meets sizes"
        )
    return best
