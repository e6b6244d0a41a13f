"""A network whose widths change one at a time, each time by the move that is worth most."""

from typing import NamedTuple

import numpy as np

from linjax.fold.engine.cost import Ledger, State, Term
from linjax.fold.engine.moves import Room, Sizes, down, narrower, ranks_above, ranks_below, wider

Array = np.ndarray


class Best(NamedTuple):
    """The best of some moves: which, its price, and what it adds to the cost."""

    which: int
    price: float
    cost: float


NONE = Best(-1, np.inf, 0.0)


class Narrowing:
    """The move with the least error per cost saved; among free ones the largest."""

    sizes = staticmethod(narrower)
    ranks = staticmethod(ranks_below)

    def best(self, worse: Array, cost: Array) -> Best:
        """Returns the best move, given what each adds to error and cost."""
        valid = cost < -1e-9
        if not valid.any():
            return NONE
        saved = np.where(valid, -cost, 1.0)
        price = np.where(valid, np.maximum(worse, 0.0) / saved, np.inf)
        i = int(np.argmax(np.where(price <= price.min(), saved, -1.0)))
        return Best(i, float(price[i]), float(cost[i]))


class Growing:
    """The move that takes away the most error per cost, of those that fit: prices are negative.

    Where width costs nothing (behind a factor that goes), any gain is worth it.

    Attributes:
      spare: what may be added to the cost.
      least: the error that a move has to take away.
    """

    sizes = staticmethod(wider)
    ranks = staticmethod(ranks_above)

    def __init__(self, spare: float, least: float) -> None:
        self.spare, self.least = spare, least

    def best(self, worse: Array, cost: Array) -> Best:
        """Returns the best move, given what each adds to error and cost."""
        valid = (cost <= self.spare) & (worse < -self.least)
        if not valid.any():
            return NONE
        price = np.where(valid, worse / np.maximum(cost, 1.0), np.inf)
        i = int(np.argmin(price))
        return Best(i, float(price[i]), float(cost[i]))


class Balancing:
    """The move that takes away the most of error and priced cost together, either way.

    Attributes:
      price: error that a unit of cost is worth.
      least: what a move has to take away.
    """

    def __init__(self, price: float, least: float) -> None:
        self.price, self.least = price, least

    @staticmethod
    def sizes(room: Room, units: int, linears: int) -> Sizes:
        """Returns the widths next to a site's, smaller and larger."""
        both = narrower(room, units, linears), wider(room, units, linears)
        return Sizes(*(np.concatenate(pair) for pair in zip(*both, strict=True)))

    @staticmethod
    def ranks(rank: int, full: int, multiple: int) -> Array:
        """Returns all other ranks of a kernel, 0 for no factor."""
        found = np.unique([down(s, multiple) for s in range(full + 1)])
        return found[found != rank]

    def best(self, worse: Array, cost: Array) -> Best:
        """Returns the best move, given what each adds to error and cost."""
        change = worse + self.price * cost
        if not (change < -self.least).any():
            return NONE
        i = int(np.argmin(change))
        return Best(i, float(change[i]), float(cost[i]))


Manner = Narrowing | Growing | Balancing
"""Which moves there are, and which of them is best."""


class _Candidates(NamedTuple):
    """Widths that a site may take and, last, those that it has; the errors that they add."""

    sizes: Sizes
    worse: Array


class Walk:
    """A state that moves, and the best next move of every site and kernel.

    Sites come first, then kernels. A best move whose neighbours have changed is looked for
    again only when it would be taken: meanwhile its price can only have become worse, unless
    either of them has to do with a factor: then it is looked for at once.

    Args:
      terms: what the network costs.
      rooms: what each site may be narrowed to; errors as they are priced.
      curves: errors of the kernels' ranks, likewise.
      multiple: of ranks.
      state: where to start.
      manner: which moves are made.
    """

    def __init__(
        self, terms: tuple[Term, ...], rooms: tuple[Room, ...], curves: tuple[Array, ...],
        multiple: int, state: State, manner: Manner,
    ) -> None:  # fmt: skip
        self.ledger = Ledger(terms, state)
        self.rooms, self.curves, self.multiple, self.manner = rooms, curves, multiple, manner
        size = len(rooms) + len(curves)
        self._to: list[tuple[int, ...]] = [()] * size
        self._price, self._cost = np.full(size, -np.inf), np.zeros(size)
        self._stale = np.ones(size, bool)
        self._candidates: dict[int, _Candidates] = {}

    def step(self) -> float | None:
        """Makes the best move; returns what it adds to the cost, None if there is none."""
        while len(self._price):
            i = int(np.argmin(self._price))
            if self._stale[i]:
                self._look(i)
            elif self._price[i] == np.inf:
                return None
            else:
                self._take(i)
                return float(self._cost[i])
        return None

    def doubt(self) -> None:
        """Says that moves may have become dearer, or not to be had."""
        self._stale[:] = True

    def anew(self) -> None:
        """Says that any move may be had, and worth more than it was."""
        self._stale[:], self._price[:] = True, -np.inf

    def _take(self, i: int) -> None:
        sites = len(self.rooms)
        if i < sites:
            units, linears = self._to[i]
            others, kernels = self.ledger.put_site(i, units, linears)
            self._candidates.pop(i, None)
            # What taking a factor away saves grows where the kernel becomes smaller.
            eager = {sites + j for j in kernels}
        else:
            others, kernels = self.ledger.put_rank(i - sites, self._to[i][0])
            eager = others | {sites + j for j in kernels}
        self._stale[list(others)] = True
        again = [i, *eager]
        self._stale[again], self._price[again] = True, -np.inf

    def _look(self, i: int) -> None:
        """Finds a site's or a kernel's best move."""
        sites = len(self.rooms)
        choice, to = self._of_site(i) if i < sites else self._of_kernel(i - sites)
        self._to[i], self._price[i], self._cost[i] = to, choice.price, choice.cost
        self._stale[i] = False

    def _of_site(self, i: int) -> tuple[Best, tuple[int, ...]]:
        if self.rooms[i].fixed:
            return NONE, ()
        if i not in self._candidates:
            now = self.ledger.units[i], self.ledger.linears[i]
            self._candidates[i] = self._candidates_of(self.rooms[i], *now)
        sizes, worse = self._candidates[i]
        costs = self.ledger.site_costs(i, *sizes)
        choice = self.manner.best(worse, costs[:-1] - costs[-1])
        return choice, (int(sizes.units[choice.which]), int(sizes.linears[choice.which]))

    def _candidates_of(self, room: Room, units: int, linears: int) -> _Candidates:
        sizes = self.manner.sizes(room, units, linears)
        ks, rs = np.append(sizes.units, units), np.append(sizes.linears, linears)
        errors = room.errors[ks, np.minimum(rs, room.errors.shape[1] - 1)]
        floats = Sizes(ks.astype(np.float64), rs.astype(np.float64))
        return _Candidates(floats, errors[:-1] - errors[-1])

    def _of_kernel(self, i: int) -> tuple[Best, tuple[int, ...]]:
        curve, rank = self.curves[i], self.ledger.ranks[i]
        ranks = np.append(self.manner.ranks(rank, len(curve) - 1, self.multiple), rank)
        errors = np.where(ranks > 0, curve[np.minimum(ranks, len(curve) - 1)], 0.0)
        costs = self.ledger.rank_costs(i, ranks)
        choice = self.manner.best(errors[:-1] - errors[-1], costs[:-1] - costs[-1])
        return choice, (int(ranks[choice.which]),)
