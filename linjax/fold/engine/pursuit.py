"""Which units explain most, one after another: orthogonal matching pursuit on second moments."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray

RELATIVE_FLOOR = 1e-4
"""A unit is spent when the others explain all but this share of its variance."""


class View(NamedTuple):
    """The units as one point sees them.

    Attributes:
      covariance: ``(m, m)`` of the units.
      cross: ``(m, q)`` their covariance with the target.
      whole: ``(m,)`` the units' variances, where the covariance is what other features leave
        of them: a unit of which almost nothing is left is spent.
    """

    covariance: Array
    cross: Array
    whole: Array | None = None


class Pursuit(NamedTuple):
    """Units in the order of their worth, with the triangular factor that orders them.

    Attributes:
      order: ``(k,)`` indices of the units, the most useful first.
      factor: ``(m, k)`` pivoted Cholesky factor of the units' covariance.
      explained: ``(k, q)`` the target's covariance with the orthonormalised units: the rows'
        squared norms are the error that each unit takes away.
    """

    order: Array
    factor: Array
    explained: Array


def worth_of(rest: Array, left: Array, floor: Array) -> Array:
    """How much of the target units explain beyond others, −1 where spent; as :class:`Reading`."""
    energy = np.einsum("iq,iq->i", rest, rest)
    return np.divide(energy, left, out=np.full(len(left), -1.0), where=left > floor)


class Reading:
    """A view given the units picked so far.

    Args:
      view: the units.
      steps: how many will be picked at most.

    Attributes:
      taken: the units picked, in their order.
      left: ``(m,)`` variances given these; negative for themselves.
      floor: ``(m,)`` of them; what has no more left is spent.
      rest: ``(m, q)`` covariance with the target given the units picked.
      factor: ``(m, steps)``, as in :class:`Pursuit`, and
      explained: ``(steps, q)``.
    """

    def __init__(self, view: View, steps: int) -> None:
        m = len(view.covariance)
        self.covariance = view.covariance
        self.left = np.diag(view.covariance).copy()
        floor = RELATIVE_FLOOR * (self.left if view.whole is None else view.whole)
        self.floor = np.maximum(floor, np.finfo(np.float64).tiny)
        self.rest = np.array(view.cross, np.float64)
        self.factor = np.zeros((m, steps), order="F")
        self.explained = np.zeros((steps, self.rest.shape[1]))
        self.taken: list[int] = []

    def worth(self) -> Array:
        """How much of the target each unit explains beyond those picked, −1 where spent."""
        return worth_of(self.rest, self.left, self.floor)

    def take(self, i: int) -> None:
        """Picks a unit."""
        j, size = len(self.taken), np.sqrt(self.left[i])
        column = (self.covariance[:, i] - self.factor[:, :j] @ self.factor[i, :j]) / size
        self.factor[:, j], self.explained[j] = column, self.rest[i] / size
        self.rest -= np.outer(column, self.explained[j])
        self.left -= column**2
        self.left[i] = -1.0
        self.taken.append(i)


def pursue(view: View, steps: int | None = None) -> Pursuit:
    """Orders units by how much of a target each explains beyond those before it.

    Greedily picks the unit i that maximises ``‖R_i‖² / d_i``, R being the covariance of the
    units with the target and d their variances, both given the units picked before: a rank-one
    update of R and one column of a Cholesky factor per unit, ``m (k + q)`` operations each. Stops
    early when all units left are combinations of those picked (dead and duplicated units are
    never picked).

    Args:
      view: the units.
      steps: the largest number of units to pick, all by default.

    Returns:
      The pursuit.

    Reference: Pati, Rezaiifar & Krishnaprasad, Orthogonal Matching Pursuit, 1993.

    >>> twice = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> pursue(View(twice, np.array([[1.0], [1.0], [2.0]]))).order.tolist()
    [2, 0]
    """
    order, (reading,) = pursued([view], steps)
    k = len(order)
    return Pursuit(order, reading.factor[:, :k], reading.explained[:k])


def pursue_all(views: Sequence[View], steps: int | None = None) -> Array:
    """Orders units by how much of the targets of all points each explains: ``(k,)``.

    A unit is worth the sum over points, and spent when it is so at every point.

    >>> one, other = np.array([[1.0], [0.0]]), np.array([[0.0], [2.0]])
    >>> pursue_all([View(np.eye(2), one), View(np.eye(2), other)]).tolist()
    [1, 0]
    """
    return pursued(views, steps)[0]


def pursued(views: Sequence[View], steps: int | None = None) -> tuple[Array, list[Reading]]:
    """Returns the same order, and every view given those units."""
    m = len(views[0].covariance)
    steps = m if steps is None else min(steps, m)
    readings = [Reading(view, steps) for view in views]
    order: list[int] = []
    for _ in range(steps):
        worths = [reading.worth() for reading in readings]
        worth = shared(worths)
        i = int(np.argmax(worth))
        if worth[i] < 0:
            break
        order.append(i)
        for reading, own in zip(readings, worths, strict=True):
            if own[i] >= 0:
                reading.take(i)
    return np.array(order, int), readings


def shared(worths: Sequence[Array]) -> Array:
    """Returns what units are worth to all views: −1 where they are spent in each of them."""
    if len(worths) == 1:
        return worths[0]
    every = np.stack(worths)
    return np.where(every.max(0) >= 0, np.maximum(every, 0.0).sum(0), -1.0)
