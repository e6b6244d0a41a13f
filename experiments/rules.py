"""The ways to make a network smaller that a config can name."""

import warnings
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple

import numpy as np

import linjax
from experiments.data import batches
from experiments.models import Params
from linjax import baselines
from linjax.fold.frontier import reachable
from linjax.program.pytree import Path, flatten


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
      of: what sizes are shares of, ``"parameters"`` or ``"flops"``.
      made: what has been made already, by rule and amount: a recovery starts from it.
    """

    net: linjax.Net
    params: Params
    stats: linjax.Stats
    frontier: Any
    rows: np.ndarray
    batch: int
    fixed: float
    of: str
    made: dict[tuple[str, float], Params]

    def batches(self) -> Iterator[np.ndarray]:
        """Returns the calibration rows in batches."""
        return batches(self.rows, self.batch)

    def size(self, amount: float) -> Any:
        """Returns the rule for a share of what sizes count."""
        of: Any = self.of
        return linjax.size(self.fixed + amount * (1 - self.fixed), of=of)

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
      of: what sizes are shares of: the parameters of the ``"whole"`` network, of what is
        ``"foldable"``, or its ``"flops"``.
    """
    stats = linjax.collect(net, params, batches(rows, batch))
    own = foldable(net) if of == "foldable" else flatten(params).keys()
    fixed = linjax.count([x for path, x in flatten(params).items() if path not in own])
    known = linjax.frontier(params, stats)
    measure = "flops" if of == "flops" else "parameters"
    return Subject(
        net, params, stats, known, rows, batch, fixed / linjax.count(params), measure, {}
    )


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


def _by_stats(method: Callable[..., Params]) -> Callable[[Subject, float], Params]:
    return lambda subject, amount: method(subject.params, subject.frontier, subject.size(amount))


class Rewritten(NamedTuple):
    """What a rule makes where the original's function can't run it: another network."""

    net: linjax.Net
    params: Params


def _sliced(subject: Subject, amount: float) -> Rewritten:
    rows, rule = list(subject.batches()), subject.size(amount)
    return Rewritten(*baselines.sliced(subject.net, subject.params, rows, rule))


def _by_rows(method: Callable[..., Params]) -> Callable[[Subject, float], Params]:
    return lambda subject, amount: method(
        subject.net, subject.params, subject.frontier, list(subject.batches()), subject.size(amount)
    )


RULES: dict[str, Callable[[Subject, float], Params]] = {
    "original": lambda subject, _: subject.params,
    "threshold": _threshold,
    "published_size": _published_size,
    "size": _size,
    "tolerance": _tolerance,
    "sequential": _sequential,
    "compress": _compress,
    "refit": _by_stats(baselines.pruned_and_refitted),
    "balf": _by_stats(baselines.energy_budgeted),
    "alds": _by_stats(baselines.error_bounded),
    "whitened_svd": _by_stats(baselines.truncated_whitened),
    "svd": _by_stats(baselines.truncated),
    "model_folding": _by_stats(baselines.clustered),
    "modegpt": _by_rows(baselines.modular),
    "slicegpt": _sliced,
    "replaceme": _by_rows(baselines.replaced),
    "magnitude": _by_stats(baselines.magnitude),
    "activity": _by_stats(baselines.activity),
}
"""Each takes a subject and an amount (an activation rate, a share of the size, an error).

``sequential`` is ``compress`` without the joint refit. Those behind ``compress`` are what others
do; ``refit`` is GRAIL's and CORP's, ``whitened_svd`` SVD-LLM's. Steps may follow every name."""


def _recover(subject: Subject, small: Params) -> Params:
    return linjax.recover(subject.net, subject.params, small, subject.batches)


def _recalibrate(subject: Subject, small: Params) -> Params:
    return baselines.recalibrated(subject.net, small, list(subject.batches()))


BITS = {"int8": 8, "int4": 4}
STEPS: dict[str, Callable[[Subject, Params], Params]] = {
    "recovered": _recover,
    "recalibrated": _recalibrate,
    "int8": lambda _, small: baselines.rounded(small, BITS["int8"]),
    "int4": lambda _, small: baselines.rounded(small, BITS["int4"]),
}
"""Behind a rule's name and an underscore: a short recovery on the same rows; batch norm's
statistics taken anew on them; kernels rounded to eight or four bits."""


def parsed(name: str) -> tuple[str, tuple[str, ...]]:
    """Splits a name into a rule and the steps that follow it.

    Raises:
      ValueError: if the rule is unknown.

    >>> parsed("published_size_recalibrated_int8")
    ('published_size', ('recalibrated', 'int8'))
    """
    rule, steps = name, list[str]()
    while rule not in RULES:
        rule, _, step = rule.rpartition("_")
        if step not in STEPS:
            known = ", ".join(RULES)
            raise ValueError(
                f"unknown rule {name!r}; known: {known}, each with _{', _'.join(STEPS)}"
            )
        steps.insert(0, step)
    return rule, tuple(steps)


def known(name: str) -> bool:
    """Whether something is the name of a rule, with or without steps."""
    try:
        parsed(name)
    except ValueError:
        return False
    return True


def place(name: str) -> tuple[tuple[int, ...], int]:
    """Where a rule stands in tables: by its steps, then in the order of :data:`RULES`."""
    rule, steps = parsed(name)
    return tuple(list(STEPS).index(step) for step in steps), list(RULES).index(rule)


def bits_of(name: str) -> int | None:
    """The bits that kernels are rounded to in the end, None where they aren't."""
    last = name.rpartition("_")[2]
    return BITS.get(last)


def make(subject: Subject, rule: str, amount: float) -> Params:
    """Returns what a rule makes of a network; the rule ``original`` leaves it as it is."""
    found = subject.made.get((rule, amount))
    if found is not None:
        return found
    base, steps = parsed(rule)
    with warnings.catch_warnings():
        # The row will show it if nothing could be folded.
        warnings.simplefilter("ignore", linjax.FoldWarning)
        if steps:
            small = make(subject, rule.removesuffix(f"_{steps[-1]}"), amount)
            subject.made[rule, amount] = STEPS[steps[-1]](subject, small)
        else:
            subject.made[rule, amount] = RULES[base](subject, amount)
    return subject.made[rule, amount]


def predicted(subject: Subject, rule: str, amount: float) -> float | None:
    """Returns the relative output error that the evidence predicts, where a rule plans by it."""
    if subject.of != "parameters" or rule not in ("size", "tolerance", "sequential", "compress"):
        return None
    asked = linjax.tolerance(amount) if rule == "tolerance" else subject.reachable(amount)
    return subject.frontier.plan(asked).error


def listed(config: Any) -> list[tuple[str, float]]:
    """Returns the (rule, amount) pairs of a config's ``rules``, a tuple of amounts a rule.

    Raises:
      ValueError: if a rule is unknown.
    """
    names = sorted(config, key=place)
    return [(rule, float(amount)) for rule in names for amount in config[rule]]
