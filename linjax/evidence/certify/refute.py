"""Witnesses: inputs of the box at which a unit is seen on, and seen off.

A unit with both witnesses is unstable and needs no bound. Points are found anyhow
(calibration data, corners where a linear bound is attained, projected gradient ascent);
what counts is that the sign at the point is proven, by running error bounds or, if these
leave zero in, by exact arithmetic.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.evidence.certify import dyadic, interval
from linjax.evidence.certify.crown import Rows
from linjax.evidence.certify.interval import Interval
from linjax.evidence.certify.steps import Step

Array = Any

OFF, ON = 0, 1
# Lengths of gradient steps, relative to the box's diagonal.
FIRST_STEP, LAST_STEP = 0.3, 3e-4


class Seen(NamedTuple):
    """The best witnesses so far of a site's k units.

    Attributes:
      points: ``(n, p)`` inputs, float64.
      index: ``(k, 2)`` int32, per unit the point where it is off and where it is on; -1
        where none is known.
      margin: ``(k, 2)`` proven distance of the pre-activation from zero there.
    """

    points: Array
    index: Array
    margin: Array

    @property
    def unstable(self) -> np.ndarray:
        """Units that are seen on and off."""
        return (self.index >= 0).all(axis=1)


def nothing_seen(inputs: int, units: int) -> Seen:
    """No witnesses at all."""
    return Seen(
        np.zeros((0, inputs)), np.full((units, 2), -1, np.int32), np.full((units, 2), -np.inf)
    )


def observe(
    seen: Seen,
    steps: tuple[Step, ...],
    points: Array,
    wanted: Array,
    deadline: float = float("inf"),
) -> Seen:
    """Adds what the points prove about the units of the last step.

    Args:
      seen: the witnesses so far.
      steps: the steps up to the site.
      points: ``(n, p)`` inputs inside the box.
      wanted: ``(k, 2)`` bool, the signs worth exact arithmetic if nothing else helps.
      deadline: ``time.monotonic()`` after which nothing is.
    """
    if not len(points):
        return seen
    units = len(seen.index)
    z = interval.evaluate(steps, points)
    proven = np.stack([-z.upper[:, :units], z.lower[:, :units]], axis=2)
    possible = np.stack([-z.lower[:, :units], z.upper[:, :units]], axis=2)
    best, margin = proven.argmax(axis=0), proven.max(axis=0)
    unclear = wanted & (seen.index < 0) & (margin <= 0) & (possible.max(axis=0) > 0)
    for unit, side in np.argwhere(unclear):
        if time.monotonic() > deadline:
            break
        point = (proven[:, unit, side] + possible[:, unit, side]).argmax()
        sign = dyadic.preactivation_signs(steps, points[point : point + 1], np.array([unit]))[0]
        if sign == (1 if side == ON else -1):
            best[unit, side], margin[unit, side] = point, np.finfo(np.float64).tiny
    better = (margin > 0) & (margin > seen.margin)
    used, place = np.unique(best[better], return_inverse=True)
    index = seen.index.copy()
    index[better] = len(seen.points) + place
    return _compact(
        Seen(
            np.concatenate([seen.points, points[used]]),
            index,
            np.where(better, margin, seen.margin),
        )
    )


def _compact(seen: Seen) -> Seen:
    """Forgets points that no unit refers to."""
    used, place = np.unique(seen.index, return_inverse=True)
    place = place.reshape(seen.index.shape).astype(np.int32)
    missing = int(used.size > 0 and used[0] < 0)
    return Seen(seen.points[used[missing:]], place - missing, seen.margin)


@jax.jit
def ascend(
    steps: tuple[Step, ...], box: Interval, rows: Rows, starts: Array, iterations: Array
) -> tuple[Array, Array]:
    """Projected gradient ascent of each row from its start (Madry et al. 2018, arXiv 1706.06083).

    Steps have the direction of the gradient's running mean, measured in widths of the box,
    and lengths that fall geometrically: the maximum is at a kink, where the gradient jumps.

    Args:
      steps: the steps whose features the rows read.
      box: bounds of the inputs.
      rows: what to maximise, one row a start.
      starts: ``(n, p)`` inputs.
      iterations: how many steps to take.

    Returns:
      the greatest values seen, ``(n,)``, and where, ``(n, p)``.
    """

    def objective(points: Array) -> tuple[Array, Array]:
        value = points
        for step in steps:
            z = value @ step.kernel + step.bias
            value = jnp.where(z < 0, step.negative, step.positive) * z
        value = jnp.sum(value * rows.weights, axis=1) + rows.constant
        return jnp.sum(value), value

    width = box.upper - box.lower
    diagonal = jnp.sqrt(width.shape[0])

    def advance(i: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        point, mean, best, where = state
        grad, value = jax.grad(objective, has_aux=True)(point)
        better = value > best
        where = jnp.where(better[:, None], point, where)
        mean = 0.9 * mean + 0.1 * grad * width
        norm = jnp.linalg.norm(mean, axis=1, keepdims=True)
        direction = mean / jnp.where(norm > 0, norm, 1.0)
        length = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (i / iterations)
        point = jnp.clip(point + length * diagonal * width * direction, box.lower, box.upper)
        return point, mean, jnp.maximum(value, best), where

    lowest = jnp.full(starts.shape[:1], -jnp.inf, starts.dtype)
    start = (starts, jnp.zeros_like(starts), lowest, starts)
    _, _, best, where = jax.lax.fori_loop(0, iterations + 1, advance, start)
    return best, where
