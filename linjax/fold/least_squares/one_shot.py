"""Folding in one shot: a pure function of the parameters and of second moments."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linjax.fold.least_squares.budget import (
    Prices,
    Shape,
    Step,
    path,
    predicted,
    rounded,
    stored,
    within_budget,
    within_error,
)
from linjax.fold.least_squares.features import Frame, frame, leaving
from linjax.fold.least_squares.prices import Problem, anatomy, prices, shape_of
from linjax.fold.least_squares.refit import Stage, Widths, fold_layer, refit
from linjax.fold.least_squares.surface import leading, metric_root, principal
from linjax.graph.layers import Layers

Array = np.ndarray

RIDGES = (1e-5, 1e-3, 3e-2, 0.5)
"""Weights of the shrinkage that are compared on held-out rows, where rows are few."""
MANY_ROWS = 2
"""Rows per feature from which the smallest ridge is taken unseen."""


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


class Folded(NamedTuple):
    """Folded chains and the plan that they follow."""

    chains: tuple[Layers, ...]
    plan: Plan


def make_plan(
    problems: Sequence[Problem],
    *,
    budget: int | None = None,
    error: float | None = None,
    fixed: int = 0,
    round_to: int = 1,
) -> Plan:
    """Chooses all widths: within a number of parameters, or within a predicted output error.

    Args:
      problems: the network's chains; they share the budget.
      budget: largest number of parameters, with the fixed ones.
      error: largest predicted relative output error; used where no budget is given.
      fixed: parameters outside the chains.
      round_to: widths are rounded down to a multiple of this where they reach it.

    Returns:
      The plan; that of the smallest valid network if the budget is below it.
    """
    few = any(np.sum(p.moments.count) < MANY_ROWS * p.moments.mean.shape[1] for p in problems)
    plans = []
    for ridge in RIDGES if few else RIDGES[:1]:
        priced = tuple(prices(problem, ridge) for problem in problems)
        steps = path(priced, fixed)
        scale = max(max(p.output for p in priced), np.finfo(np.float64).tiny)
        if budget is None:
            step = within_error(steps, error**2 * scale)
        else:
            step = within_budget(steps, budget)
        plans.append(_plan(step, priced, fixed, round_to, scale, ridge))
    if budget is None:
        return min(plans, key=lambda plan: plan.parameters)
    return min(plans, key=lambda plan: plan.error)


def _plan(
    step: Step, priced: tuple[Prices, ...], fixed: int, round_to: int, scale: float, ridge: float
) -> Plan:
    shapes = tuple(rounded(s, round_to) for s in step.shapes)
    size = fixed + sum(stored(p.reads, s) for p, s in zip(priced, shapes, strict=True))
    error = sum(predicted(p, s) for p, s in zip(priced, shapes, strict=True))
    return Plan(shapes, size, float(np.sqrt(error / scale)), ridge)


def fold_moments(
    problems: Sequence[Problem],
    *,
    budget: int | None = None,
    error: float | None = None,
    fixed: int = 0,
    round_to: int = 1,
    plan: Plan | None = None,
) -> Folded:
    """Folds the chains of a network by least squares on second moments.

    Plans all widths by predicted output error (:func:`make_plan`), then goes through every
    chain from its input: units are chosen and linear units directed so that the next
    pre-activation ``z`` is reproduced best in the output metric, the kernels behind them are
    refitted, ``B = C_ff⁻¹ C_fz`` with f = [h_kept, u], and bottlenecks factored.

    Args:
      problems: the network's chains, with moments collected on them.
      budget: largest number of parameters, with the fixed ones.
      error: largest predicted relative output error; used where no budget is given.
      fixed: parameters outside the chains.
      round_to: widths are rounded down to a multiple of this where they reach it.
      plan: the widths, if they are known already.

    Returns:
      The folded chains, float64, and the plan.

    Example:
      >>> import numpy as np
      >>> from linjax.evidence.moments import Moments
      >>> rows = np.random.default_rng(0).normal(size=(2, 50, 3))
      >>> kernel, head = np.ones((3, 40)), np.ones((40, 2))
      >>> a = np.concatenate([rows, np.maximum(rows @ kernel + 20, 0)], -1)
      >>> centred = a - a.mean(1, keepdims=True)
      >>> moments = Moments(np.array([50.0, 50.0]), a.mean(1),
      ...     centred.swapaxes(1, 2) @ centred, (np.eye(40), np.eye(2)), (3, 40))
      >>> from linjax.graph.layers import Layer
      >>> layers = (Layer(kernel, np.full(40, 20.0)), Layer(head, np.zeros(2)))
      >>> folded = fold_moments([Problem(layers, moments)], error=1e-3)
      >>> [layer.units for layer in folded.chains[0]], folded.plan.parameters
      ([0, 2], 7)
    """
    if plan is None:
        plan = make_plan(problems, budget=budget, error=error, fixed=fixed, round_to=round_to)
    chains = tuple(
        execute(problem, frame(problem.moments, None, plan.ridge), shape)
        for problem, shape in zip(problems, plan.shapes, strict=True)
    )
    return Folded(chains, plan)


def execute(problem: Problem, data: Frame, shape: Shape) -> Layers:
    """Folds a chain to the given widths, from its input to its outputs.

    Layers in front of the first one that changes stay as they are.
    """
    parts, start = anatomy(problem), shape_of(problem.layers)
    v, done, same = parts.features[0], [], True
    for i, layer in enumerate(problem.layers):
        widths = Widths(shape.necks[i], shape.units[i], shape.linears[i])
        same = same and widths == Widths(start.necks[i], start.units[i], start.linears[i])
        last = i + 1 == len(problem.layers)
        if same:
            done.append(layer)
            v = v if last else parts.features[i + 1]
            continue
        kernel, bias = refit(data, v, parts.pre[i])
        behind = i if last else i + 1
        target = parts.pre[behind] @ metric_root(problem.moments.sensitivity[behind])
        stage = Stage(
            inputs=v,
            kernel=kernel,
            bias=bias + layer.bias,
            units=None if last else parts.units[i],
            target=target @ leading(*principal(data, target)),
        )
        new, kept = fold_layer(data, stage, widths, layer)
        done.append(new)
        v = v if last else leaving(new, v, parts.units[i].rows[kept])
    return tuple(done)
