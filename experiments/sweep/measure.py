"""Measures one trained network by every rule: a row each."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import linjax
from experiments import evaluate, rules, widths
from experiments.data import Dataset
from experiments.results import Row
from experiments.sweep import proofs
from experiments.sweep.journal import NETWORK
from linjax import baselines
from linjax.chains.reading import read_chain
from linjax.evidence.stats import Stats, UnitStats
from linjax.fold.prune import selected
from linjax.program import pytree

Params = Any

BY_RATE = ("threshold", "published_size")
"""Rules that need no more than activation rates."""


class Network(NamedTuple):
    """A trained network to be measured.

    Attributes:
      task: its settings.
      net: the network, traced.
      params: its parameters.
      active: by site, on how many calibration rows each unit is on; None where that wasn't
        counted for many networks together.
      dataset: test rows measure, training rows calibrate.
      config: ``calibration``; ``rules_of``, what sizes are shares of; ``certify_seconds`` for
        proofs about units.
    """

    task: dict[str, Any]
    net: linjax.Net
    params: Params
    active: tuple[np.ndarray, ...] | None
    dataset: Dataset
    config: Any


def rows(
    network: Network,
    todo: list[tuple[str, float]],
    done: Callable[[str, float], bool],
) -> Iterator[Row]:
    """Yields a row for the original and for each rule that has none yet.

    Where a rule fails its row holds the ``failure`` instead of figures.
    """
    test, size = network.dataset.test, linjax.count(network.params)
    missing = [pair for pair in [("original", 1.0), *todo] if not done(*pair)]
    if not missing:
        return
    predict = predictor(network)
    original = predict(network.params)
    y = test.y if network.config.dataset.get("labels", True) else original.argmax(-1)
    timed, runtime = network.config.get("latency", ()), network.config.get("runtime", "jax")
    whole = evaluate.compiled(network.net, network.params, runtime) if timed else None
    subject: rules.Subject | None = None
    for rule, amount in missing:
        row: Row = {"task": network.task, "rule": rule, "amount": amount}
        try:
            if network.active is not None and rule in BY_RATE:
                small = _by_rate(network, rule, amount)
            elif network.active is not None and rule == "original":
                small = network.params
            else:
                subject = _subject(network) if subject is None else subject
                small = rules.make(subject, rule, amount)
            net, small = small if isinstance(small, rules.Rewritten) else (network.net, small)
            here = net is network.net
            logits = predict(small) if here else evaluate.predict(net.apply, small, test.x)
        except Exception as error:  # whatever it is, the other rules go on
            yield row | {"failure": f"{type(error).__name__}: {error}"}
            continue
        row |= {
            "parameters": linjax.count(small),
            "share": linjax.count(small) / size,
            "classes": network.dataset.classes,
            "predicted": _predicted(subject, rule, amount),
            "error": relative_error(logits, original),
            "bytes": baselines.stored_bytes(small, rules.bits_of(rule)),
            **evaluate.measure(logits, original, y),
            **widths.describe(net, small),
        }
        if rule == "original":
            stats = rate_stats(network) if subject is None else subject.stats
            row["rates"] = widths.histograms(stats.rates)
            if network.config.get("certify_seconds", 0):
                x, seconds = network.dataset.train.x, network.config.certify_seconds
                row["proven"] = proofs.counts(network.net, network.params, x, seconds)
        if network.active is None:
            row["flops"] = net.flops(small, test.x[:1])
            if timed:
                one = evaluate.compiled(net, small, runtime)
                row["latency"] = evaluate.latencies(one, whole, test.x, timed)
        yield row


def failed(task: dict[str, Any], error: BaseException) -> Row:
    """The row of a network that couldn't be trained or scored."""
    text = f"{type(error).__name__}: {error}"
    return {"task": task, "rule": NETWORK, "amount": 0.0, "failure": text}


def _by_rate(network: Network, rule: str, amount: float) -> Params:
    asked = linjax.threshold(amount) if rule == "threshold" else linjax.published_size(amount)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        return linjax.fold(network.params, rate_stats(network), asked)


def rate_stats(network: Network) -> Stats:
    """Evidence of activation rates alone."""
    count = np.int64(len(_calibration(network)))
    units = tuple(
        UnitStats(
            count,
            active.astype(np.int64),
            mean_z=np.zeros(len(active)),
            mean_h=np.zeros(len(active)),
            scatter=np.zeros((3, len(active))),
        )
        for active in network.active
    )
    net, leaves = network.net, pytree.leaves_of(network.params)
    return Stats(
        seen=units, points=(), kernels=(), variation=np.zeros(()), sketch=np.zeros((0, 0)),
        network=net.network, graph=net.graph, leaves=leaves, metric="softmax",
    )  # fmt: skip


def _calibration(network: Network) -> np.ndarray:
    return network.dataset.train.x[: network.config.calibration.rows]


def _subject(network: Network) -> rules.Subject:
    batch, of = network.config.calibration.batch, network.config.get("rules_of", "whole")
    return rules.gather(network.net, network.params, _calibration(network), batch, of)


def _predicted(subject: rules.Subject | None, rule: str, amount: float) -> float | None:
    return None if subject is None else rules.predicted(subject, rule, amount)


def without_pruned(net: linjax.Net, params: Params, kept: list[np.ndarray]) -> Params:
    """Removes the units that training has pruned."""
    if all(k.all() for k in kept):
        return params
    return selected(params, net.network, [np.flatnonzero(k)[None] for k in kept])


def predictor(network: Network) -> Callable[[Params], np.ndarray]:
    """Returns the function from parameters to logits of the test rows.

    A plain chain is evaluated by NumPy, where no new shape has to be compiled, if that gives
    the original's logits.
    """
    net, x = network.net, network.dataset.test.x

    def compiled(params: Params) -> np.ndarray:
        return evaluate.predict(net.apply, params, x)

    known = [site.activation.slopes for site in net.graph.sites]
    alone = len(net.graph.chains) == 1 and net.graph.chains[0].source == "input"
    if not alone or None in known:
        return compiled
    want, found = compiled(network.params), chain_logits(net, network.params, x)
    close = np.shape(found) == want.shape and np.allclose(found, want, rtol=1e-3, atol=1e-3)
    return (lambda params: chain_logits(net, params, x)) if close else compiled


def chain_logits(net: linjax.Net, params: Params, x: np.ndarray) -> np.ndarray:
    """Evaluates a network that is one chain, in single precision."""
    (chain,) = net.graph.chains
    layers = read_chain(net.graph, pytree.flatten(params), chain)
    value = x.reshape(len(x), -1)
    for depth, layer in enumerate(layers):
        value = value if layer.down is None else value @ layer.down.astype(np.float32)
        z = value @ layer.kernel.astype(np.float32) + layer.bias.astype(np.float32)
        if depth == len(chain.sites):
            return z
        below, above = (s.astype(np.float32) for s in layer.slopes)
        parts = [np.where(z < 0, below * z, above * z)]
        if layer.linear is not None:
            parts.append(value @ layer.linear.astype(np.float32))
        if layer.carry:
            parts.append(value)
        value = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    raise AssertionError("a chain ends in an affine map")


def relative_error(logits: np.ndarray, original: np.ndarray) -> float:
    """The error that :func:`linjax.compare` gives, from logits ``(…, classes)`` at hand."""
    logits, original = (x.reshape(-1, x.shape[-1]) for x in (logits, original))
    wide = original.astype(np.float64)
    p = np.exp(wide - wide.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    metric = np.diag(p.mean(axis=0)) - p.T @ p / len(p)
    wrong, centred = logits - wide, wide - wide.mean(axis=0)
    top, bottom = (float(np.sum(metric * (d.T @ d))) for d in (wrong, centred))
    if bottom <= 0:
        return float("inf") if top > 0 else 0.0
    return float(np.sqrt(max(top, 0.0) / bottom))
