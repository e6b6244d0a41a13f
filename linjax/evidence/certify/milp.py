"""One mixed-integer program per unit and sign, as published: for comparison, not as proof.

Serra, Kumar & Ramalingam (2020, arXiv 2001.00218) maximise a unit's pre-activation over the
box. With bounds l ≤ z ≤ u and a binary d for every earlier unit,

    z = h − g,   0 ≤ h ≤ max(u, 0) d,   0 ≤ g ≤ max(−l, 0) (1 − d),

h is the positive part of z and g the negative one. Solvers work to tolerances near 1e-6:
a bound counts here only with that to spare, and ``check_certificate`` doesn't accept it.
"""

import time
from typing import Any, NamedTuple

import numpy as np

from linjax.evidence.bounds import How
from linjax.evidence.certify.crown import Relaxed, Rows
from linjax.evidence.certify.interval import Interval
from linjax.evidence.certify.refute import observe
from linjax.evidence.certify.site import Problem, State

Array = Any

TOLERANCE = 1e-6


class Solved(NamedTuple):
    """A solver's answer.

    Attributes:
      bound: the objective is at most this, to the solver's tolerance; inf if unknown.
      point: ``(p,)`` the best input found, None without any.
    """

    bound: float
    point: Array | None


def maximise(
    relaxed: tuple[Relaxed, ...], box: Interval, rows: Rows, row: int, time_limit: float
) -> Solved:
    """Maximises one row over the box by HiGHS.

    Args:
      relaxed: the steps that the row reads from, with bounds.
      box: bounds of the inputs.
      rows: the functions.
      row: which of them.
      time_limit: seconds.
    """
    # Imported here: scipy.optimize takes longer to import than all of linjax.
    import scipy.sparse as sp
    from scipy.optimize import Bounds, LinearConstraint, milp

    inputs = len(box.lower)
    widths = [len(step.bias) for step in relaxed]
    # Variables: the inputs, then per step the blocks h, g, d.
    total = inputs + 3 * sum(widths)
    lower, upper = np.zeros(total), np.zeros(total)
    lower[:inputs], upper[:inputs] = box
    integral = np.zeros(total)
    constraints = []
    features = sp.eye_array(inputs, total, format="csr")  # the step's inputs, by variables
    start = inputs
    for step, width in zip(relaxed, widths, strict=True):
        h, g, d = (sp.eye_array(width, total, k=start + i * width, format="csr") for i in range(3))
        on, off = np.maximum(step.upper, 0.0), np.maximum(-step.lower, 0.0)
        upper[start : start + 3 * width] = np.concatenate([on, off, np.ones(width)])
        integral[start + 2 * width : start + 3 * width] = 1
        affine = sp.csr_array(step.kernel.T) @ features
        constraints += [
            LinearConstraint(affine - h + g, -step.bias, -step.bias),
            LinearConstraint(h - sp.diags_array(on) @ d, -np.inf, 0.0),
            LinearConstraint(g + sp.diags_array(off) @ d, -np.inf, off),
        ]
        positive = sp.diags_array(step.negative + step.rise)
        features = (positive @ h - sp.diags_array(step.negative) @ g).tocsr()
        start += 3 * width
    found = milp(
        -(features.T @ rows.weights[row]),
        integrality=integral,
        bounds=Bounds(lower, upper),
        constraints=constraints,
        options={"time_limit": max(time_limit, 0.01)},
    )
    bound = np.inf if found.mip_dual_bound is None else -found.mip_dual_bound
    point = None if found.x is None else np.clip(found.x[:inputs], box.lower, box.upper)
    return Solved(float(bound + rows.constant[row]), point)


def by_milp(problem: Problem, state: State, deadline: float) -> State:
    """Decides what is open by one program for each unit and sign."""
    for unit, side in np.argwhere(state.open):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        if not state.open[unit, side]:
            continue
        rows = problem.rows(np.array([unit]), np.array([side]))
        solved = maximise(problem.relaxed, problem.box, rows, 0, min(left, 1e6))
        if solved.point is not None:
            seen = observe(state.seen, problem.steps, solved.point[None], state.open, deadline)
            state = state._replace(seen=seen)
        reach = float(np.abs(rows.weights[0]) @ _reach(problem)) + abs(float(rows.constant[0]))
        bound = solved.bound + TOLERANCE * max(1.0, reach)
        if bound < state.value[unit, side]:
            value, how = state.value.copy(), state.how.copy()
            value[unit, side], how[unit, side] = bound, How.MILP
            state = state._replace(value=value, how=how)
    return state


def _reach(problem: Problem) -> np.ndarray:
    """Magnitudes of the features that the site reads."""
    if not problem.relaxed:
        return np.maximum(np.abs(problem.box.lower), np.abs(problem.box.upper))
    last = problem.relaxed[-1]
    steep = np.maximum(np.abs(last.negative), np.abs(last.negative + last.rise))
    return steep * np.maximum(np.abs(last.lower), np.abs(last.upper))
