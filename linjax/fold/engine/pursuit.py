"""Which units explain most, one after another: orthogonal matching pursuit on second moments."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linjax.fold.engine.linalg import add_outer

Array = np.ndarray

RELATIVE_FLOOR = 1e-4
"""A unit is spent when the others explain all but this share of its variance."""
TIED = 1e-5
"""Share of what a unit is worth by which another's worth may differ by rounding alone."""


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
        self.rest = np.array(view.cross, np.float64, order="C")
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
        add_outer(self.rest, column, self.explained[j], -1.0)
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
    order, _, (reading,) = pursued([view], steps)
    k = len(order)
    return Pursuit(order, reading.factor[:, :k], reading.explained[:k])


def pursue_all(views: Sequence[View], steps: int | None = None) -> Array:
    """Orders units by how much of the targets of all points each explains: ``(k,)``.

    A unit is worth the sum over points, and spent when it is so at every point.

    >>> one, other = np.array([[1.0], [0.0]]), np.array([[0.0], [2.0]])
    >>> pursue_all([View(np.eye(2), one), View(np.eye(2), other)]).tolist()
    [1, 0]
    """
    return pursued(views, steps).order


class Pursued(NamedTuple):
    """Units in the order of their worth to several views.

    Attributes:
      order: ``(k,)`` indices of the units.
      tied: by unit of the order, those that were worth the same, itself among them.
      readings: every view given the units.
    """

    order: Array
    tied: list[Array]
    readings: list[Reading]


def pursued(views: Sequence[View], steps: int | None = None) -> Pursued:
    """Returns the same order, and what else there is to know of it.

    Rounding doesn't decide between units that are worth the same: the first of them is picked.
    """
    m = len(views[0].covariance)
    steps = m if steps is None else min(steps, m)
    readings = [Reading(view, steps) for view in views]
    order, every = list[int](), list[Array]()
    for _ in range(steps):
        worths = [reading.worth() for reading in readings]
        worth = shared(worths)
        best = worth.max()
        if best < 0:
            break
        tied = (worth >= (1.0 - TIED) * best).nonzero()[0]
        i = int(tied[0])
        order.append(i)
        every.append(tied)
        for reading, own in zip(readings, worths, strict=True):
            if own[i] >= 0:
                reading.take(i)
    return Pursued(np.array(order, int), every, readings)


def twins(covariances: Sequence[Array], found: Pursued) -> list[tuple[int, int]]:
    """Returns units that could as well have been picked in place of others: ``(picked, other)``.

    Beside linear units others may be worth the same, and nothing beside each other: those that
    are always on, but for where a border is. With fewer linear units they differ, unless they
    are copies.

    Args:
      covariances: by view, of the units beside nothing else.
      found: an order of them beside all linear units.
    """
    picked = set(found.order.tolist())
    return [
        (int(i), int(j))
        for i, tied in zip(found.order, found.tied, strict=True)
        for j in tied
        if j not in picked
        and any(c[i, j] ** 2 < (1.0 - TIED) * c[i, i] * c[j, j] for c in covariances)
    ]


def shared(worths: Sequence[Array]) -> Array:
    """Returns what units are worth to all views: −1 where they are spent in each of them."""
    if len(worths) == 1:
        return worths[0]
    every = np.stack(worths)
    return np.where(every.max(0) >= 0, np.maximum(every, 0.0).sum(0), -1.0)
