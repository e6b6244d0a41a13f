"""The ways to make a network smaller that a config can name, in the order of tables."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import linjax
from experiments.data import batches
from experiments.models import Params
from experiments.registry import METHODS, STEPS
from linjax import baselines

BY_RATE = ("original", "threshold", "published_size", "lump")
"""Methods that need no second moments."""
PREDICTING = ("size", "tolerance", "sequential", "compress")
"""Methods that plan by the predicted error."""


class Rewritten(NamedTuple):
    """What a method makes where the original's function can't run it: another network."""

    net: linjax.Net
    params: Params


class Subject:
    """A trained network with its evidence, which is collected when a method first needs it.

    Attributes:
      net: the traced network.
      params: its parameters.
      rows: the calibration rows.
      batch: how many of them are run at a time.
      of: what sizes are shares of: the parameters of the ``"whole"`` network, of what is
        ``"foldable"``, or its ``"flops"``.
      box: lower and upper side of the box on which units are certified, ``seconds`` at most.
      extra: what the network's study knows of it.
      made: what has been made already, by name and amount: a step starts from it.
    """

    def __init__(
        self, net: linjax.Net, params: Params, rows: np.ndarray, batch: int, of: str = "whole",
        box: tuple[Any, Any] = (0.0, 1.0), seconds: float = 60.0, extra: Any = None,
    ) -> None:  # fmt: skip
        self.net, self.params, self.rows, self.batch, self.of = net, params, rows, batch, of
        self.box, self.seconds, self.extra = box, seconds, extra
        self.made: dict[tuple[str, float], Any] = {}

    def batches(self) -> Iterator[np.ndarray]:
        """Returns the calibration rows in batches."""
        return batches(self.rows, self.batch)

    @functools.cached_property
    def rates(self) -> linjax.Stats:
        """Evidence of activation rates, means and variances alone."""
        if "stats" in self.__dict__:
            return self.stats
        return linjax.collect(self.net, self.params, self.batches(), second_moments=False)

    @functools.cached_property
    def stats(self) -> linjax.Stats:
        """Evidence collected on the calibration rows."""
        return linjax.collect(self.net, self.params, self.batches())

    @functools.cached_property
    def frontier(self) -> linjax.Frontier:
        """What every size costs by that evidence."""
        return linjax.frontier(self.params, self.stats)

    @functools.cached_property
    def bounds(self) -> linjax.Bounds:
        """What is proven of every unit on the box."""
        return linjax.certify(
            self.net, self.params, *self.box, time_limit=self.seconds, data=self.rows
        )

    @functools.cached_property
    def fixed(self) -> float:
        """Share of the parameters that sizes don't count: 0, or what can't fold."""
        if self.of != "foldable":
            return 0.0
        return 1 - linjax.coverage(self.net).foldable

    def size(self, amount: float) -> Any:
        """Returns the rule for a share of what sizes count."""
        of: Any = "flops" if self.of == "flops" else "parameters"
        return linjax.size(self.fixed + amount * (1 - self.fixed), of=of)

    def reachable(self, amount: float) -> Any:
        """Returns the same, or the smallest size that there is."""
        rule = self.size(amount)
        least = self.frontier.least(rule)
        return rule if rule.fraction >= least else rule._replace(fraction=least)


@METHODS.add("original")
def original(subject: Subject, _: float) -> Params:
    """The network as it is."""
    return subject.params


@METHODS.add("threshold")
def threshold(subject: Subject, amount: float) -> Params:
    """The published rule: units on at least so often lose their activation."""
    return linjax.fold(subject.params, subject.rates, linjax.threshold(amount))


@METHODS.add("published_size")
def published_size(subject: Subject, amount: float) -> Params:
    """The published rule for a size."""
    return linjax.fold(subject.params, subject.rates, linjax.published_size(amount))


@METHODS.add("size")
def size(subject: Subject, amount: float) -> Params:
    """A fold in one shot."""
    return linjax.fold(subject.params, subject.frontier, subject.reachable(amount))


@METHODS.add("tolerance")
def tolerance(subject: Subject, amount: float) -> Params:
    """A fold in one shot to a predicted error."""
    return linjax.fold(subject.params, subject.frontier, linjax.tolerance(amount))


def _compress(joint: bool) -> Callable[[Subject, float], Params]:
    return lambda subject, amount: linjax.compress(
        subject.net, subject.params, subject.batches, subject.reachable(amount),
        evidence=subject.frontier, joint=joint,
    )  # fmt: skip


METHODS.add("sequential")(_compress(joint=False))
METHODS.add("compress")(_compress(joint=True))


def _by_stats(method: Callable[..., Params]) -> Callable[[Subject, float], Params]:
    return lambda subject, amount: method(subject.params, subject.frontier, subject.size(amount))


def _by_rows(method: Callable[..., Params]) -> Callable[[Subject, float], Params]:
    return lambda subject, amount: method(
        subject.net, subject.params, subject.frontier, list(subject.batches()), subject.size(amount)
    )


for _name, _method in {
    "refit": _by_stats(baselines.pruned_and_refitted),  # GRAIL's and CORP's
    "balf": _by_stats(baselines.energy_budgeted),
    "alds": _by_stats(baselines.error_bounded),
    "whitened_svd": _by_stats(baselines.truncated_whitened),  # SVD-LLM's
    "svd": _by_stats(baselines.truncated),
    "model_folding": _by_stats(baselines.clustered),
    "modegpt": _by_rows(baselines.modular),
}.items():
    METHODS.add(_name)(_method)


@METHODS.add("slicegpt")
def sliced(subject: Subject, amount: float) -> Rewritten:
    """Slices of the stream of features."""
    rows, rule = list(subject.batches()), subject.size(amount)
    return Rewritten(*baselines.sliced(subject.net, subject.params, rows, rule))


METHODS.add("replaceme")(_by_rows(baselines.replaced))
METHODS.add("magnitude")(_by_stats(baselines.magnitude))
METHODS.add("activity")(_by_stats(baselines.activity))


@METHODS.add("lump")
def lump(subject: Subject, _: float) -> Params:
    """Proportional units joined, without data."""
    return linjax.lump(subject.net, subject.params)


PUBLISHED = ("inactive", "dependent", "fold_layer", "collapse")
"""The exact rewritings of 2020 (arXiv 2001.00218)."""


@METHODS.add("exact_2020")
def exact_2020(subject: Subject, _: float) -> Params:
    """What is proven on the box, by the rules of 2020."""
    return linjax.fold(subject.params, subject.bounds, rewritings=PUBLISHED)


@METHODS.add("exact")
def exact(subject: Subject, _: float) -> Params:
    """What is proven on the box, by all rules."""
    return linjax.fold(subject.params, subject.bounds)


@STEPS.add("recovered")
def recovered(subject: Subject, small: Params) -> Params:
    """A short recovery on the same rows."""
    return linjax.recover(subject.net, subject.params, small, subject.batches)


@STEPS.add("recalibrated")
def recalibrated(subject: Subject, small: Params) -> Params:
    """Batch norm's statistics taken anew on the same rows."""
    return baselines.recalibrated(subject.net, small, list(subject.batches()))


BITS = {"int8": 8, "int4": 4}
for _name, _bits in BITS.items():
    STEPS.add(_name)(lambda _, small, bits=_bits: baselines.rounded(small, bits))


def parsed(name: str) -> tuple[str, tuple[str, ...]]:
    """Splits a name into a method and the steps that follow it.

    Raises:
      ValueError: if the method is unknown.

    >>> parsed("published_size_recalibrated_int8")
    ('published_size', ('recalibrated', 'int8'))
    """
    method, steps = name, list[str]()
    while method not in METHODS:
        method, _, step = method.rpartition("_")
        if step not in STEPS:
            known = ", ".join(METHODS)
            raise ValueError(
                f"unknown rule {name!r}; known: {known}, each with _{', _'.join(STEPS)}"
            )
        steps.insert(0, step)
    return method, tuple(steps)


def known(name: str) -> bool:
    """Whether something is the name of a method, with or without steps."""
    try:
        parsed(name)
    except ValueError:
        return False
    return True


def place(name: str) -> tuple[tuple[int, ...], int]:
    """Where a method stands in tables: by its steps, then in the order of registration."""
    method, steps = parsed(name)
    return tuple(list(STEPS).index(step) for step in steps), list(METHODS).index(method)


def bits_of(name: str) -> int | None:
    """The bits that kernels are rounded to in the end, None where they aren't."""
    return BITS.get(name.rpartition("_")[2])


def make(subject: Subject, name: str, amount: float) -> Any:
    """Returns what a method and its steps make of a network."""
    if (name, amount) not in subject.made:
        base, steps = parsed(name)
        with warnings.catch_warnings():
            # The row will show it if nothing could be folded.
            warnings.simplefilter("ignore", linjax.FoldWarning)
            if steps:
                small = make(subject, name.removesuffix(f"_{steps[-1]}"), amount)
                subject.made[name, amount] = STEPS[steps[-1]](subject, small)
            else:
                subject.made[name, amount] = METHODS[base](subject, amount)
    return subject.made[name, amount]


def predicted(subject: Subject, name: str, amount: float) -> float | None:
    """Returns the relative output error that the evidence predicts, where a method plans by it."""
    if subject.of == "flops" or name not in PREDICTING:
        return None
    asked = linjax.tolerance(amount) if name == "tolerance" else subject.reachable(amount)
    return subject.frontier.plan(asked).error


def listed(config: Any) -> list[tuple[str, float]]:
    """Returns the (name, amount) pairs of a config's ``rules``, a tuple of amounts a method.

    Raises:
      ValueError: if a method is unknown.
    """
    return [(name, float(amount)) for name in sorted(config, key=place) for amount in config[name]]
