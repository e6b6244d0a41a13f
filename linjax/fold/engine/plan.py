"""Plans: the widths of all sites and kernels, read off paths that serve every budget."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from linjax.errors import warn
from linjax.fold.engine.cost import State
from linjax.fold.engine.moves import Room
from linjax.fold.engine.path import Prices, Step, balanced, filled, path, smallest
from linjax.fold.engine.problem import Site, many_rows
from linjax.fold.engine.surface import Surface

Array = np.ndarray

RIDGE = 1e-3
"""Weight of the noise that regressions are shrunk by."""
RIDGES = (RIDGE, 1e-2, 1e-1, 0.5, 1e-5)
"""Weights that are compared on held-out rows, where rows are few; the last one for networks that
fold almost exactly."""
CLOSE = 1.1
"""Of plans whose predicted errors are this close that of the first weight in :data:`RIDGES`:
held-out rows are few, too, and say little between them."""


class Plan(NamedTuple):
    """Widths for every site and kernel, and what was expected of them.

    Attributes:
      state: the widths.
      cost: what the network costs; above the budget only if the smallest network is.
      error: predicted relative output error, root mean square.
      shrinkage: weight of the noise that the fold's regressions reckon with.
    """

    state: State
    cost: float
    error: float
    shrinkage: float

    @property
    def ridge(self) -> float:
        """Deprecated: ``shrinkage``."""
        warn("Plan.ridge is now .shrinkage", DeprecationWarning)
        return self.shrinkage


class Curve(NamedTuple):
    """What every size costs, refitted with one shrinkage.

    Attributes:
      shrinkage: its weight.
      prices: of widths.
      steps: ever smaller networks, each the one before after its cheapest move.
      scale: the outputs' variance in the metric of the errors.
    """

    shrinkage: float
    prices: Prices
    steps: tuple[Step, ...]
    scale: float

    def plan(self, state: State) -> Plan:
        """Returns widths as a plan."""
        error = self.prices.error(state)
        relative = np.sqrt(error / self.scale) if self.scale > 0 else np.inf if error else 0.0
        return Plan(state, self.prices.cost(state), float(relative), self.shrinkage)

    @property
    def smallest(self) -> Step:
        """The smallest network that there is."""
        return smallest(self.steps)


def ridges(sites: Iterable[Site]) -> tuple[float, ...]:
    """Returns the weights of noise that compete: several where rows are few for the widths."""
    return (RIDGE,) if all(map(many_rows, sites)) else RIDGES


def shrinkage(site: Site, ridge: float) -> float:
    """Returns the weight of noise for a site: where its rows are many, no other competes."""
    return RIDGE if many_rows(site) else ridge


def room(site: Site, found: Surface, fixed: bool = False) -> Room:
    """Returns what a site may be narrowed to.

    Args:
      site: the site.
      found: its errors.
      fixed: whether it stays as it is.
    """
    return Room(found.errors, site.least, site.multiple, fixed)


def curve(ridge: float, prices: Prices, scale: float) -> Curve:
    """Follows the path to the smallest network.

    Args:
      ridge: weight of the shrinkage with which the prices were found.
      prices: of widths.
      scale: the outputs' variance in the metric of the errors.
    """
    return Curve(ridge, prices, tuple(path(prices)), scale)


def within_budget(curves: Sequence[Curve], budget: float) -> Plan:
    """Returns the plan of least predicted error that costs at most so much.

    That of the smallest network there is, if the budget is below it.
    """
    plans = []
    for own in curves:
        fitting = (step for step in own.steps if step.cost <= budget)
        step = next(fitting, own.smallest)
        state = filled(own.prices, step.state, budget)
        if step.cost <= budget:
            state = balanced(own.prices, state, budget)
        plans.append(own.plan(state))
    fits = [plan for plan in plans if plan.cost <= budget] or plans
    least = min(plan.error for plan in fits)
    return next(plan for plan in fits if plan.error <= CLOSE * least)


def topped_up(curves: Sequence[Curve], plan: Plan, budget: float) -> Plan:
    """Returns a plan with what is left of a larger budget spent, too."""
    own = next(own for own in curves if own.shrinkage == plan.shrinkage)
    return own.plan(filled(own.prices, plan.state, budget))


def within_error(curves: Sequence[Curve], error: float) -> Plan:
    """Returns the smallest plan whose predicted relative output error is at most ``error``."""
    plans = []
    for own in curves:
        good = [step for step in own.steps if step.error <= error**2 * own.scale]
        plans.append(own.plan(smallest(good or own.steps[:1]).state))
    return min(plans, key=lambda plan: plan.cost)
