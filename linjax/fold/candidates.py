"""The networks that ``compress`` chooses among, and the smallest of a measured error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from linjax.dims.spelled import spelled
from linjax.fold.compare import compare
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.plan import Plan
from linjax.fold.frontier import Frontier
from linjax.fold.rows import (
    Batch,
    Rows,
    cut,
    mean_divergence,
    replayable,
)
from linjax.fold.rules import Size, Tolerance
from linjax.fold.sequential.in_order import Task, dealt, fold_in_order
from linjax.net import Net

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
      metric: output metric.
    """

    net: Net
    params: Any
    known: Frontier
    train: Batch
    held: Batch
    metric: str

    def one_shot(self, rule: Size) -> Any:
        """Folds by the original's moments."""
        return self.known.carried_out(self.params, self.known.plan(rule))[0]

    def refitted(self, rule: Size, held: Rows) -> list[Any]:
        """Returns the network folded in one shot, and refitted in the order of execution.

        Args:
          rule: the size.
          held: rows that decide between plans.
        """
        made = [self._written(plan) for plan in self.plans(rule)]
        if len(made) > 1:
            better, _ = nearest(self.net, [own.small for own in made], held, self.metric)
            made = [own for own in made if own.small is better]
        best = made[0]
        flat, rows = self.net.network.flatten(self.params), replayable(self.net, self.train)
        leaves, tree = jax.tree.flatten(rows)
        network = self.net.network_for(flat, jax.tree.unflatten(tree, dealt(leaves)[0]))
        problems = self.known.problems.traced(network, flat)
        task = Task(network, spelled(network, flat), problems, best.plan, best.choices)
        ordered = fold_in_order(task, leaves)
        return [best.small, self.known.finished(ordered, self.params)]

    def plans(self, rule: Size) -> list[Plan]:
        """What may be folded: everything, and everything but streams where that differs.

        What narrowing a stream costs is told worst of all: errors of all that is added to it, and
        reads it, meet there. A measurement decides.
        """
        return self.known.leaving(rule, lambda site: site.stream, self.known.plan)

    def _written(self, plan: Plan) -> "_Made":
        now, choices = self.known.write(self.params, plan)
        return _Made(plan, choices, self.known.finished(now.flat, self.params))

    def error(self, params: Any) -> float:
        """Measures the relative output error on the held-out rows."""
        chunks = cut(self.net, self.held)
        found = compare(self.net, self.params, params, chunks, metric=self.metric, progress=False)
        return found.error


class _Made(NamedTuple):
    """A plan, what every site keeps under it, and the network that is folded so in one shot."""

    plan: Plan
    choices: list[Choice]
    small: Any


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
    predicted = plan.cost / work.known.before
    best, low, high = work.params, 0.0, 1.0
    whole = Size(1.0, rule.round_to, least=rule.least)
    share = min(max(predicted, 1e-6), 1.0)

    def size(share: float) -> Size:
        return work.known.reachable(whole._replace(fraction=share))

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
