"""The ways to make a network smaller that a config can name, in the order of tables."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import linjax
from experiments.data import Dataset, batches
from experiments.models import Params
from experiments.registry import METHODS, STEPS
from linjax import baselines

PREDICTING = ("size", "tolerance", "sequential", "compress")
"""Methods that plan by the predicted error."""


class Rewritten(NamedTuple):
    """What a method makes where the original's function can't run it: another network."""

    net: linjax.Net
    params: Params


@dataclasses.dataclass
class Subject:
    """A trained network, its calibration ``rows``, and evidence, collected when first needed.

    Attributes:
      batch: how many rows are run at a time.
      of: what sizes are shares of: the parameters of the ``"whole"`` network, of what is
        ``"foldable"`` (inside of layers, by all methods alike), or its ``"flops"``.
      box: lower and upper side of the box on which units are certified, ``seconds`` at most.
      dataset: its data.
      config: the config that it was trained by.
      made: what has been made already, by name and amount: a step starts from it.
    """

    net: linjax.Net
    params: Params
    rows: np.ndarray
    batch: int
    of: str = "whole"
    box: tuple[Any, Any] = (0.0, 1.0)
    seconds: float = 60.0
    dataset: Dataset | None = None
    config: Any = None
    made: dict[tuple[str, float], Any] = dataclasses.field(default_factory=dict)

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
        """Evidence collected on the calibration rows, whose batches are counted."""
        return linjax.collect(self.net, self.params, list(self.batches()))

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

    def size(self, amount: float) -> Any:
        """Returns the rule for a share of what sizes count."""
        counted = linjax.coverage(self.net).inside if self.of == "foldable" else 1.0
        of: Any = "flops" if self.of == "flops" else "parameters"
        return linjax.size(1 - counted + amount * counted, of=of)

    def reachable(self, amount: float) -> Any:
        """Returns the same, or the smallest size that there is."""
        return self.frontier.reachable(self.size(amount))


def subject(net: linjax.Net, params: Params, dataset: Dataset, config: Any) -> Subject:
    """A trained network, to be calibrated on training rows as its config says.

    ``calibration``; ``rules_of``, what sizes are shares of; ``certify_seconds`` for proofs about
    units, on the ``box`` ``"data"`` that the training rows span or the ``"unit"`` box.
    """
    x, (rows, batch) = dataset.train.x, (config.calibration.rows, config.calibration.batch)
    box = (0.0, 1.0) if config.get("box", "data") == "unit" else (x.min(0), x.max(0))
    of, seconds = config.get("rules_of", "whole"), config.get("certify_seconds", 0.0)
    return Subject(net, params, x[:rows], batch, of, box, seconds, dataset, config)


PUBLISHED = ("inactive", "dependent", "fold_layer", "collapse")
"""The exact rewritings of 2020 (arXiv 2001.00218)."""
BITS = {f"int{bits}": bits for bits in (8, 6, 5, 4)}


def _compress(s: Subject, amount: float, joint: bool) -> Params:
    known, rule = s.frontier, s.reachable(amount)
    return linjax.compress(s.net, s.params, s.batches, rule, evidence=known, joint=joint)


def _by_stats(method: Callable[..., Params]) -> Callable[[Subject, float], Params]:
    return lambda s, amount: method(s.params, s.frontier, s.size(amount))


def _by_rows(method: Callable[..., Params]) -> Callable[[Subject, float], Params]:
    return lambda s, amount: method(s.net, s.params, s.frontier, list(s.batches()), s.size(amount))


def _rounded(bits: int, _: Subject, small: Params) -> Params:
    return baselines.rounded(small, bits)


_methods: dict[str, Callable[[Subject, float], Any]] = {
    "original": lambda s, _: s.params,
    "threshold": lambda s, amount: linjax.fold(s.params, s.rates, linjax.threshold(amount)),
    "published_size": lambda s, a: linjax.fold(s.params, s.rates, linjax.published_size(a)),
    "size": lambda s, amount: linjax.fold(s.params, s.frontier, s.reachable(amount)),
    "tolerance": lambda s, a: linjax.fold(s.params, s.frontier, linjax.tolerance(a)),
    "sequential": lambda s, amount: _compress(s, amount, joint=False),
    "compress": lambda s, amount: _compress(s, amount, joint=True),
    "refit": _by_stats(baselines.pruned_and_refitted),  # GRAIL's and CORP's
    "balf": _by_stats(baselines.energy_budgeted),
    "alds": _by_stats(baselines.error_bounded),
    "whitened_svd": _by_stats(baselines.truncated_whitened),  # SVD-LLM's
    "svd": _by_stats(baselines.truncated),
    "model_folding": _by_stats(baselines.clustered),
    "modegpt": _by_rows(baselines.modular),
    "slicegpt": lambda s, amount: Rewritten(
        *baselines.sliced(s.net, s.params, list(s.batches()), s.size(amount))
    ),
    "replaceme": _by_rows(baselines.replaced),
    "magnitude": _by_stats(baselines.magnitude),
    "activity": _by_stats(baselines.activity),
    "lump": lambda s, _: linjax.lump(s.net, s.params),
    "quantised": lambda s, bits: linjax.quantise(s.net, s.params, int(bits)),
    "exact_2020": lambda s, _: linjax.fold(s.params, s.bounds, rewritings=PUBLISHED),
    "exact": lambda s, _: linjax.fold(s.params, s.bounds),
}
_steps: dict[str, Callable[[Subject, Params], Params]] = {
    "recovered": lambda s, small: linjax.recover(s.net, s.params, small, s.batches),
    "recalibrated": lambda s, small: baselines.recalibrated(s.net, small, list(s.batches())),
    "lumped": lambda s, small: linjax.lump(s.net, small),
    **{name: functools.partial(_rounded, bits) for name, bits in BITS.items()},
}
METHODS.update(_methods)
STEPS.update(_steps)


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
