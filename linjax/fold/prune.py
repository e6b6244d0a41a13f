"""Activation-based pruning, the published baseline: units that fire least go first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from linjax.errors import EvidenceError, LinjaxError
from linjax.evidence.stats import Stats
from linjax.fold import uniform
from linjax.fold.fold import matching, transform
from linjax.graph.layers import Array, Layers, replaced
from linjax.graph.structure import Graph
from linjax.graph.substitute import keep_units, substitute


def prune(params: Any, stats: Stats, fraction: float, *, scope: str = "network") -> Any:
    """Removes the units with the lowest activation rate.

    A removed unit's activation counts as zero: its columns of the producer's kernel and
    bias go, and its rows of the consumers'. Nothing is refitted; every layer keeps at
    least one unit.

    Args:
      params: the pytree that the evidence was collected on.
      stats: activation rates.
      fraction: share of the units to remove, in [0, 1].
      scope: ``"network"`` ranks all units together, ``"layer"`` removes the same share
        of every layer.

    Returns:
      The narrower pytree, a nested dict.

    Raises:
      LinjaxError: if fraction or scope is out of range.
      StructureError, EvidenceError: as for :func:`fold`.

    References:
      Activation-based pruning of neural networks, Algorithms 17(1):48, 2024; combined with
      folding in Dobler and Lemmerich, 2025, arXiv 2506.21146.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> x = jnp.array([[1.0, -1.0, 2.0], [3.0, -2.0, -1.0]])
      >>> stats = linjax.collect(linjax.trace(apply, params, x), params, [x])
      >>> linjax.prune(params, stats, 0.34)["in"].shape
      (3, 2)
    """
    if not 0 <= fraction <= 1:
        raise LinjaxError(f"fraction = {fraction}, expected a share in [0, 1]")
    if scope not in ("network", "layer"):
        raise LinjaxError(f"scope = {scope!r}, expected 'network' or 'layer'")
    if not isinstance(stats, Stats):
        raise EvidenceError(f"expected Stats, got {type(stats).__name__}")
    if not matching(params, stats):
        return params
    if stats.network is not None:
        return uniform.removed(params, stats, fraction, scope)
    return narrowed(params, stats.graph, _kept([u.rate for u in stats.units], fraction, scope))


def narrowed(params: Any, graph: Graph, kept: Sequence[Array]) -> Any:
    """Removes the units that masks, one a site, leave out; their activation counts as zero."""
    masks = iter(kept)

    def narrow(layers: Layers) -> Layers:
        for index in range(len(layers) - 1):
            layers = _remove(layers, index, next(masks))
        return layers

    return transform(params, graph, lambda _, layers: narrow(layers))[0]


def _kept(rates: list[Array], fraction: float, scope: str) -> list[Array]:
    """Masks of the units that stay."""
    if scope == "layer":
        limits = [_rank(r, fraction) for r in rates]
    else:
        everything = np.concatenate(rates)
        order = _rank(everything, fraction)
        limits = np.split(order, np.cumsum([len(r) for r in rates])[:-1])
    for keep, r in zip(limits, rates, strict=True):
        if len(r) and not keep.any():
            keep[int(np.argmax(r))] = True
    return limits


def _rank(values: Array, fraction: float) -> Array:
    """Mask without the lowest share of the values; ties go in order."""
    keep = np.ones(len(values), bool)
    keep[np.argsort(values, kind="stable")[: round(fraction * len(values))]] = False
    return keep


def _remove(layers: Layers, index: int, keep: Array) -> Layers:
    layer = layers[index]
    stay = np.concatenate([keep, np.ones(layer.features - layer.units, bool)])
    layers = replaced(layers, index, keep_units(layer, keep))
    return substitute(layers, index + 1, lambda rows: rows[stay], np.zeros(len(stay)))
