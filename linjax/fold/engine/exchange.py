"""Units exchanged for others after a greedy choice: which set explains most, not which order."""

from collections.abc import Sequence

import numpy as np
import scipy

from linjax.fold.engine.linalg import add_outer
from linjax.fold.engine.pursuit import Reading, View, pursued, shared, worth_of

Array = np.ndarray

TRIED = 16
"""How many of the others are tried at a time: those that explain most beyond the members."""
GAIN = 1e-6
"""Share of what a unit explains by which another must explain more to stand in for it."""


def exchanged(views: Sequence[View], k: int) -> Array:
    """Returns k units that explain much of the targets of all points: ``(k,)``.

    Begins with those of the pursuit. Then units are exchanged, one at a time: of those outside
    that are worth most, the one for which a member can go at the largest gain. Every exchange
    explains more, so that it ends; there are at most k.

    Args:
      views: the units as each point sees them.
      k: how many; fewer come back where all others are combinations of these.

    Reference: Miller, Subset selection in regression, 2002, on replacement.

    >>> covariance = np.array([[1.0, 0.0, 0.7], [0.0, 1.0, 0.7], [0.7, 0.7, 1.0]])
    >>> view = View(covariance, np.array([[1.0], [1.0], [1.41]]))
    >>> pursued([view], 2)[0].tolist(), sorted(exchanged([view], 2).tolist())
    ([2, 0], [0, 1])
    """
    order, _, readings = pursued(views, k)
    if not 0 < len(order) < len(views[0].covariance):
        return order
    slots = {int(unit): slot for slot, unit in enumerate(order)}
    held = [_Held(view, own, slots) for view, own in zip(views, readings, strict=True)]
    members, free = np.append(order, -1), len(order)
    for _ in range(len(order)):
        worth = shared([own.worth() for own in held])
        worth[members[members >= 0]] = -1.0
        added = np.argsort(-worth, kind="stable")[:TRIED]
        added = added[worth[added] > 0]
        loss = np.sum([own.loss(added) for own in held], axis=0)
        loss[free] = np.inf
        gain = worth[added] - loss - GAIN * worth[added]
        if not len(added) or gain.max() <= 0:
            break
        slot, which = np.unravel_index(np.argmax(gain), gain.shape)
        for own in held:
            own.add(int(added[which]), free)
            own.drop(int(members[slot]), int(slot))
        members[free], members[slot], free = added[which], -1, int(slot)
    return members[members >= 0]


class _Held:
    """A view given units of which any may go again.

    Units have slots, one of which is free. With C the covariance, S the units and B the
    covariance with the target ``inverse`` is ``C_SS⁻¹``, ``coefficients`` are ``C_SS⁻¹ B_S``,
    ``rest`` and ``left`` are those of a :class:`Reading`. An exchange costs what a few steps of
    a pursuit cost.
    """

    def __init__(self, view: View, reading: Reading, slots: dict[int, int]) -> None:
        size, taken = len(slots) + 1, reading.taken
        self.covariance, self.floor = view.covariance, reading.floor
        self.left, self.rest = reading.left, reading.rest
        own, count = [slots[unit] for unit in taken], len(taken)
        root = scipy.linalg.solve_triangular(
            reading.factor[taken, :count], np.eye(count), lower=True, check_finite=False
        )
        self.inverse = np.zeros((size, size))
        self.inverse[np.ix_(own, own)] = root.T @ root
        self.coefficients = np.zeros((size, self.rest.shape[1]))
        self.coefficients[own] = root.T @ reading.explained[:count]
        self.columns = np.zeros((len(self.left), size), order="F")
        self.columns[:, own] = self.covariance[:, taken]

    def worth(self) -> Array:
        """How much of the target each unit explains beyond those held, −1 where spent."""
        return worth_of(self.rest, self.left, self.floor)

    def loss(self, added: Array) -> Array:
        """How much would be lost with each unit held beside one of others: ``(slots, added)``."""
        left, rest = self.left[added], self.rest[added]
        solid = left > self.floor[added]
        share = np.divide(1.0, left, out=np.zeros_like(left), where=solid)
        through = self.inverse @ self.columns[added].T
        # Adding i turns coefficients X_j into X_j − u_j R_i / d_i, and 1/d_j gains u_j² / d_i.
        energy = np.einsum("kq,kq->k", self.coefficients, self.coefficients)[:, None]
        energy = energy - 2.0 * through * (self.coefficients @ rest.T) * share
        energy = energy + (through * share) ** 2 * np.einsum("aq,aq->a", rest, rest)
        inverse = self.inverse.diagonal()[:, None] + through**2 * share
        lost = np.divide(energy, inverse, out=np.zeros_like(energy), where=inverse > 0)
        return np.maximum(lost, 0.0)

    def add(self, unit: int, slot: int) -> None:
        """Holds a unit, in the free slot, unless it is spent."""
        if not self.left[unit] > self.floor[unit]:
            return
        through = self.inverse @ self.columns[unit]
        column = self.covariance[:, unit] - self.columns @ through
        size, rest = self.left[unit], self.rest[unit].copy()
        through[slot] = -1.0
        add_outer(self.inverse, through, through / size)
        add_outer(self.coefficients, through, rest / size, -1.0)
        self.columns[:, slot] = self.covariance[:, unit]
        add_outer(self.rest, column, rest / size, -1.0)
        self.left -= column * (column / size)
        self.left[unit] = -1.0

    def drop(self, unit: int, slot: int) -> None:
        """Lets a unit go that is in a slot, if it is held here."""
        through = self.inverse[slot].copy()
        if not through[slot] > 0:
            return
        size, coefficient = 1.0 / through[slot], self.coefficients[slot].copy()
        column = self.columns @ (through * size)
        add_outer(self.inverse, through, through * size, -1.0)
        add_outer(self.coefficients, through * size, coefficient, -1.0)
        add_outer(self.rest, column, coefficient)
        self.left += column * (column / size)
        self.left[unit] = size
        self.inverse[slot], self.inverse[:, slot] = 0.0, 0.0
        self.coefficients[slot], self.columns[:, slot] = 0.0, 0.0
