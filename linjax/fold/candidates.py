"""The networks that ``compress`` chooses among, and the smallest of a measured error."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from linjax.fold.compare import compare
from linjax.fold.engine.plan import Plan
from linjax.fold.frontier import Frontier, written
from linjax.fold.in_order import Task, fold_in_order
from linjax.fold.landscape import Landscape
from linjax.fold.least_squares.measure import Data
from linjax.fold.least_squares.sequential import fold_sequentially
from linjax.fold.rewrite import finished
from linjax.fold.rows import (
    ROWS,
    Batch,
    Rows,
    cut,
    enriched_once,
    even,
    mean_divergence,
    size_of,
    without_held,
)
from linjax.fold.rules import Size, Tolerance
from linjax.graph import pytree
from linjax.graph.net import Net

STEPS = 7
"""Sizes at which one shot is measured."""
REFITS = 3
"""Sizes at which networks are refitted and measured."""
SMALLER = 0.4
"""The smallest size that a refit is tried at, as a share of the one that one shot reaches."""


class Work(NamedTuple):
    """What candidates are made of and measured on.

    Attributes:
      net: the traced network.
      params: its parameters.
      known: what its sizes cost.
      train: rows to fit on.
      held: rows to measure on.
      again: starts all batches anew.
      metric: output metric.
    """

    net: Net
    params: Any
    known: Frontier | Landscape
    train: Batch
    held: Batch
    again: Callable[[], Iterator[Batch]]
    metric: str

    def one_shot(self, rule: Size) -> Any:
        """Folds by the original's moments."""
        known = self.known
        if isinstance(known, Landscape):
            return known.fold(self.params, known.plan(rule))[0]
        return written(self.params, known.stats, known.fold(known.plan(rule)))

    def refitted(self, rule: Size) -> list[Any]:
        """Returns the network folded in one shot, and refitted layer by layer.

        Chains that branch are folded in one shot alone.
        """
        known = self.known
        if isinstance(known, Landscape):
            return self._in_order(known, known.plan(rule))
        if self.net.graph.branching:
            return [self.one_shot(rule)]
        data = Data(self.net, self.params, lambda: map(enriched_once, self._passes()), self.metric)
        plan = known.plan(rule)
        sequential = fold_sequentially(data, known.problems, plan)
        return [self.one_shot(rule), pytree.unflatten(sequential, like=self.params)]

    def _in_order(self, known: Landscape, plan: Plan) -> list[Any]:
        """The network folded in one shot, and refitted kernel by kernel."""
        now, choices = known.write(self.params, plan)
        flat = pytree.flatten(self.params)
        rows = even(self.net, self.train)
        network = self.net.network_for(flat, cut(self.net, rows)[0])
        task = Task(network, flat, known.problems, plan, choices)
        ordered = fold_in_order(task, jax.tree.leaves(rows))
        return [finished(each, self.params) for each in (now.flat, ordered)]

    def _passes(self) -> Iterable[Batch]:
        """The rows to fit on: those in memory where they are all, that fewer programs compile."""
        if size_of(self.train) + size_of(self.held) < ROWS:
            return cut(self.net, even(self.net, self.train))
        return without_held(self.again())

    def error(self, params: Any) -> float:
        """Measures the relative output error on the held-out rows."""
        chunks = cut(self.net, self.held)
        found = compare(self.net, self.params, params, chunks, metric=self.metric, progress=False)
        return found.error


def nearest(net: Net, candidates: list[Any], held: Rows, metric: str) -> tuple[Any, float]:
    """Returns the network nearest to the original on held-out rows, and how far it is."""
    errors = [mean_divergence(net, candidate, held, metric) for candidate in candidates]
    best = int(np.argmin(errors))
    return candidates[best], errors[best]


def within(work: Work, rule: Tolerance, make: Callable[[Size], Any]) -> Any:
    """Returns the smallest network found whose measured error is at most the tolerance.

    The share of parameters is bisected on a logarithmic scale: first in one shot, from the size
    that the prediction names; then, below the size found, with refits.

    Args:
      work: what to measure on.
      rule: the tolerance.
      make: makes the best network of a size.
    """
    plan = work.known.plan(rule)
    predicted = (plan.cost if isinstance(plan, Plan) else plan.parameters) / work.known.before
    best, low, high = work.params, 0.0, 1.0
    share, least = min(max(predicted, 1e-6), 1.0), work.known.least(Size(1.0, rule.round_to))

    def size(share: float) -> Size:
        return Size(max(share, least), rule.round_to)

    for _ in range(STEPS):
        made = work.one_shot(size(share))
        if work.error(made) <= rule.error:
            best, high = made, share
        else:
            low = share
        share = float(np.sqrt(low * high)) if low else high / 2
    low, share = SMALLER * high, high
    for _ in range(REFITS):
        made = make(size(share))
        if work.error(made) <= rule.error:
            best, high = made, share
        else:
            low = share
        share = float(np.sqrt(low * high))
    return best
