"""Plans: the widths of all chains, read off paths that serve every budget."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from linjax.fold.engine.plan import CLOSE, RIDGE, RIDGES
from linjax.fold.least_squares.budget import (
    Prices,
    Shape,
    Step,
    path,
    predicted,
    rounded,
    stored_together,
)
from linjax.fold.least_squares.fill import filled
from linjax.fold.least_squares.prices import Problem, many_rows, prices, spread


class Plan(NamedTuple):
    """Widths for every chain, and what was expected of them.

    Attributes:
      shapes: widths by chain.
      parameters: parameters of the whole network.
      error: predicted relative output error, root mean square.
      ridge: shrinkage of the covariance that the refits use.
    """

    shapes: tuple[Shape, ...]
    parameters: int
    error: float
    ridge: float


class Curve(NamedTuple):
    """What every size costs, refitted with one shrinkage.

    Attributes:
      ridge: the shrinkage.
      priced: prices of each chain.
      steps: ever smaller networks, each the one before after its cheapest move.
      scale: the outputs' variance in the metric of the errors.
      fixed: parameters outside the chains.
    """

    ridge: float
    priced: tuple[Prices, ...]
    steps: tuple[Step, ...]
    scale: float
    fixed: int

    def plan(self, step: Step, round_to: int) -> Plan:
        """Returns a step as a plan, its widths rounded down to a multiple."""
        shapes = tuple(rounded(s, round_to) for s in step.shapes)
        pairs = list(zip(self.priced, shapes, strict=True))
        size = self.fixed + stored_together(self.priced, shapes)
        error = sum(predicted(p, s) for p, s in pairs)
        return Plan(shapes, size, float(np.sqrt(error / self.scale)), self.ridge)


def curves(problems: Sequence[Problem], fixed: int = 0) -> tuple[Curve, ...]:
    """Prices all chains and follows the path to the smallest network, once for each shrinkage.

    Where rows are few compared to features, several ridges compete on held-out rows.

    Args:
      problems: the network's chains; they share every budget.
      fixed: parameters outside the chains.
    """
    many = all(many_rows(problem.moments) for problem in problems)
    noises = [spread(problem) for problem in problems]
    found = []
    for ridge in (RIDGE,) if many else RIDGES:
        priced = tuple(prices(p, ridge * noise) for p, noise in zip(problems, noises, strict=True))
        scale = max(max(p.output for p in priced), np.finfo(np.float64).tiny)
        found.append(Curve(ridge, priced, tuple(path(priced, fixed)), scale, fixed))
    return tuple(found)


def within_budget(found: Iterable[Curve], budget: int, round_to: int = 1) -> Plan:
    """Returns the plan of least predicted error with at most so many parameters.

    That of the smallest network there is, if the budget is below it.
    """
    plans = []
    for curve in found:
        fitting = (step for step in curve.steps if step.parameters <= budget)
        step = next(fitting, curve.steps[-1])
        shapes = filled(curve.priced, step.shapes, budget - step.parameters)
        plans.append(curve.plan(step._replace(shapes=shapes), round_to))
    least = min(plan.error for plan in plans)
    return next(plan for plan in plans if plan.error <= CLOSE * least)


def within_error(found: Iterable[Curve], error: float, round_to: int = 1) -> Plan:
    """Returns the smallest plan whose predicted relative output error is at most ``error``."""
    plans = []
    for curve in found:
        kept = curve.steps[0]
        for step in curve.steps[1:]:
            if step.error > error**2 * curve.scale:
                break
            kept = step
        plans.append(curve.plan(kept, round_to))
    return min(plans, key=lambda plan: plan.parameters)
