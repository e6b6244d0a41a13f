"""Which units keep their activation: orthogonal matching pursuit on second moments."""

from typing import NamedTuple

import numpy as np

Array = np.ndarray

RELATIVE_FLOOR = 1e-4
"""A unit is spent when the others explain all but this share of its variance."""


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


def pursue(
    covariance: Array, cross: Array, steps: int | None = None, whole: Array | None = None
) -> Pursuit:
    """Orders units by how much of a target each explains beyond those before it.

    Greedily picks the unit i that maximises ``‖R_i‖² / d_i``, R being the covariance of the
    units with the target and d their variances, both given the units picked before: a rank-one
    update of R and one column of a Cholesky factor per unit, ``m (k + q)`` operations each. Stops
    early when all units left are combinations of those picked (dead and duplicated units are
    never picked).

    Args:
      covariance: ``(m, m)`` covariance of the units.
      cross: ``(m, q)`` covariance of the units with the target.
      steps: the largest number of units to pick, all by default.
      whole: ``(m,)`` the units' variances, where the covariance is what other features leave
        of them: a unit of which almost nothing is left is spent.

    Returns:
      The pursuit.

    Reference: Pati, Rezaiifar & Krishnaprasad, Orthogonal Matching Pursuit, 1993.

    >>> twice = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> pursue(twice, np.array([[1.0], [1.0], [2.0]])).order.tolist()
    [2, 0]
    """
    m = len(covariance)
    steps = m if steps is None else min(steps, m)
    left = np.diag(covariance).copy()
    floor = RELATIVE_FLOOR * (left if whole is None else whole)
    floor = np.maximum(floor, np.finfo(np.float64).tiny)
    rest = np.array(cross, np.float64)
    order = np.zeros(steps, int)
    factor = np.zeros((m, steps), order="F")
    explained = np.zeros((steps, rest.shape[1]))
    for j in range(steps):
        alive = left > floor
        energy = np.einsum("iq,iq->i", rest, rest)
        worth = np.divide(energy, left, out=np.full(m, -1.0), where=alive)
        i = int(np.argmax(worth))
        if not alive[i]:
            return Pursuit(order[:j], factor[:, :j], explained[:j])
        column = (covariance[:, i] - factor[:, :j] @ factor[i, :j]) / np.sqrt(left[i])
        order[j], factor[:, j], explained[j] = i, column, rest[i] / np.sqrt(left[i])
        rest -= np.outer(column, explained[j])
        left -= column**2
        left[i] = -1.0
    return Pursuit(order, factor, explained)
