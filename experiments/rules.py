"""The ways to make a network smaller that a config can name."""

import warnings
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple

import numpy as np

import linjax
from experiments.data import batches
from experiments.models import Params
from linjax.fold import rivals
from linjax.fold.frontier import reachable
from linjax.graph.maps import Path
from linjax.graph.pytree import flatten


class Subject(NamedTuple):
    """A trained network with its evidence.

    Attributes:
      net: the traced network.
      params: its parameters.
      stats: evidence collected on the calibration rows.
      frontier: what every size costs by that evidence.
      rows: the calibration rows.
      batch: how many of them are run at a time.
      fixed: share of the parameters that sizes don't count: 0, or what can't fold.
      made: what has been made already, by rule and amount: a recovery starts from it.
    """

    net: linjax.Net
    params: Params
    stats: linjax.Stats
    frontier: Any
    rows: np.ndarray
    batch: int
    fixed: float
    made: dict[tuple[str, float], Params]

    def batches(self) -> Iterator[np.ndarray]:
        """Returns the calibration rows in batches."""
        return batches(self.rows, self.batch)

    def size(self, amount: float) -> Any:
        """Returns the rule for a share of the parameters that sizes count."""
        return linjax.size(self.fixed + amount * (1 - self.fixed))

    def reachable(self, amount: float) -> Any:
        """Returns the same, or the smallest size that there is."""
        return reachable(self.frontier, self.size(amount))


def gather(
    net: linjax.Net, params: Params, rows: np.ndarray, batch: int, of: str = "whole"
) -> Subject:
    """Collects evidence on calibration rows.

    Args:
      net: the traced network.
      params: its parameters.
      rows: the calibration rows.
      batch: how many of them are run at a time.
      of: what sizes are shares of: the ``"whole"`` network, or what is ``"foldable"``.
    """
    stats = linjax.collect(net, params, batches(rows, batch))
    own = foldable(net) if of == "foldable" else flatten(params).keys()
    fixed = linjax.count([x for path, x in flatten(params).items() if path not in own])
    known = linjax.frontier(params, stats)
    return Subject(net, params, stats, known, rows, batch, fixed / linjax.count(params), {})


def foldable(net: linjax.Net) -> Set[Path]:
    """Paths of the leaves that folding may make smaller."""
    dims = {site.dim for site in net.network.foldable}
    leaves = zip(net.network.paths, net.network.layout.leaves, strict=True)
    return {path for path, spans in leaves if dims & {d for s in spans for d in s.dims()}}


def _threshold(subject: Subject, amount: float) -> Params:
    return linjax.fold(subject.params, subject.stats, linjax.threshold(amount))


def _published_size(subject: Subject, amount: float) -> Params:
    return linjax.fold(subject.params, subject.stats, linjax.published_size(amount))


def _size(subject: Subject, amount: float) -> Params:
    return linjax.fold(subject.params, subject.frontier, subject.reachable(amount))


def _tolerance(subject: Subject, amount: float) -> Params:
    return linjax.fold(subject.params, subject.frontier, linjax.tolerance(amount))


def _compress(subject: Subject, amount: float) -> Params:
    rule, known = subject.reachable(amount), subject.frontier
    return linjax.compress(subject.net, subject.params, subject.batches, rule, evidence=known)


def _sequential(subject: Subject, amount: float) -> Params:
    rule, known, rows = subject.reachable(amount), subject.frontier, subject.batches
    return linjax.compress(subject.net, subject.params, rows, rule, evidence=known, joint=False)


def _rival(method: Callable[..., Params]) -> Callable[["Subject", float], Params]:
    return lambda subject, amount: method(subject.params, subject.stats, subject.size(amount))


RECOVERED = "_recovered"
"""Behind a rule's name: followed by a short recovery on the same rows."""

RULES: dict[str, Callable[[Subject, float], Params]] = {
    "threshold": _threshold,
    "published_size": _published_size,
    "size": _size,
    "tolerance": _tolerance,
    "sequential": _sequential,
    "compress": _compress,
    "refit": _rival(rivals.pruned_and_refitted),
    "whitened_svd": _rival(rivals.truncated_whitened),
    "svd": _rival(rivals.truncated),
    "magnitude": _rival(rivals.magnitude),
    "activity": _rival(rivals.activity),
}
"""Each takes a subject and an amount (an activation rate, a share of the size, an error).

``sequential`` is ``compress`` without the joint refit. Those behind ``compress`` are what others
do. Every name may be followed by ``_recovered``."""
NAMES = (*RULES, *(rule + RECOVERED for rule in RULES))


def make(subject: Subject, rule: str, amount: float) -> Params:
    """Returns what a rule makes of a network; the rule ``original`` leaves it as it is."""
    if rule == "original":
        return subject.params
    known = subject.made.get((rule, amount))
    if known is not None:
        return known
    if rule.endswith(RECOVERED):
        small = make(subject, rule.removesuffix(RECOVERED), amount)
        return linjax.recover(subject.net, small, subject.params, subject.batches)
    with warnings.catch_warnings():
        # The row will show it if nothing could be folded.
        warnings.simplefilter("ignore", linjax.FoldWarning)
        subject.made[rule, amount] = RULES[rule](subject, amount)
    return subject.made[rule, amount]


def predicted(subject: Subject, rule: str, amount: float) -> float | None:
    """Returns the relative output error that the evidence predicts, where a rule plans by it."""
    if rule not in ("size", "tolerance", "sequential", "compress"):
        return None
    asked = linjax.tolerance(amount) if rule == "tolerance" else subject.reachable(amount)
    return subject.frontier.plan(asked).error


def listed(config: Any) -> list[tuple[str, float]]:
    """Returns the (rule, amount) pairs of a config's ``rules``, a tuple of amounts a rule.

    Raises:
      ValueError: if a rule is unknown.
    """
    unknown = sorted(set(config) - set(NAMES))
    if unknown:
        raise ValueError(f"unknown rule {unknown[0]!r} in config.rules; known: {', '.join(NAMES)}")
    return [(rule, float(amount)) for rule in NAMES for amount in config.get(rule, ())]
