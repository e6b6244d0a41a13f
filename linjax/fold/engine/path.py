"""Spending costs where they take away the most error: one greedy path over all budgets."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from linjax.fold.engine.cost import State, Term, total
from linjax.fold.engine.moves import Room
from linjax.fold.engine.walk import Balancing, Growing, Manner, Narrowing, Walk

Array = np.ndarray

BEYOND = 1e6
"""How much dearer error is beyond what a site may lose."""
GAIN = 1e-9
"""Share of the error that growing a width has to take away."""
PRICES = 14
"""How many prices of cost are tried for a balance."""
SPAN = 100.0
"""How far these are from the average price on the path, up or down."""
TINY = np.finfo(np.float64).tiny


class Caution(NamedTuple):
    """How far predicted errors are trusted.

    Attributes:
      convexity: a site's error E of a total T is priced ``E (1 + convexity E / T)``.
      cap: share of its total that a site may lose before anything else is left to lose:
        predictions are first-order, and an empty site is far from first order.
    """

    convexity: float = 0.0
    cap: float = 1.0


class Prices(NamedTuple):
    """What a network's widths cost, and what they predict.

    Attributes:
      sites: what each site may be narrowed to, at which error.
      kernels: by kernel ``(s + 1,)`` errors of rank 0 … s; one number where it isn't factored.
      terms: what the network costs.
      multiple: ranks are multiples of this, unless all are kept.
      caution: how far errors are trusted.
    """

    sites: tuple[Room, ...]
    kernels: tuple[Array, ...]
    terms: tuple[Term, ...]
    multiple: int = 1
    caution: Caution = Caution()

    @property
    def start(self) -> State:
        """The network as it is."""
        units = tuple(len(room.errors) - 1 for room in self.sites)
        return State(units, (0,) * len(units), (0,) * len(self.kernels))

    def cost(self, state: State) -> float:
        """Returns what the network costs."""
        return total(self.terms, state)

    def errors(self, state: State) -> list[float]:
        """Returns the predicted squared output errors of sites, then of kernels."""
        sites = zip(self.sites, state.units, state.linears, strict=True)
        kernels = zip(self.kernels, state.ranks, strict=True)
        return [
            *(float(room.errors[k, min(r, room.errors.shape[1] - 1)]) for room, k, r in sites),
            *(float(own[min(rank, len(own) - 1)]) if rank else 0.0 for own, rank in kernels),
        ]

    def error(self, state: State) -> float:
        """Returns the predicted squared output error: those of all sites and kernels, added."""
        return sum(self.errors(state))

    @property
    def feared(self) -> "Prices":
        """The same with errors as they are priced: what plans are compared by."""
        sites = tuple(r._replace(errors=_feared(r.errors, self.caution)) for r in self.sites)
        kernels = tuple(_feared(curve, self.caution) for curve in self.kernels)
        return self._replace(sites=sites, kernels=kernels, caution=Caution())


class Step(NamedTuple):
    """A point on the path: widths, what they cost, and their predicted squared error."""

    state: State
    cost: float
    error: float


def _feared(errors: Array, caution: Caution) -> Array:
    """Errors as they are priced."""
    whole = max(float(errors.flat[0]), TINY)
    share = errors / whole
    beyond = np.maximum(share - caution.cap, 0.0) * BEYOND * whole
    return errors * (1.0 + caution.convexity * share) + beyond


def _walk(feared: Prices, state: State, manner: Manner) -> Walk:
    """A walk from some widths, by errors as they are priced."""
    return Walk(feared.terms, feared.sites, feared.kernels, feared.multiple, state, manner)


def path(prices: Prices) -> Iterator[Step]:
    """Yields ever smaller networks, each the previous one after its cheapest move.

    The price of a move is the predicted error that it adds per cost that it saves. One path
    serves every budget. It ends at the smallest valid network.
    """
    state = prices.start
    walk = _walk(prices.feared, state, Narrowing())
    cost = prices.cost(state)
    yield Step(state, cost, prices.error(state))
    while (added := walk.step()) is not None:
        cost += added
        state = walk.ledger.state
        yield Step(state, cost, prices.error(state))


def filled(prices: Prices, state: State, budget: float) -> State:
    """Returns wider widths: the most error taken away per cost, until nothing more fits."""
    return _filled(prices.feared, state, budget, GAIN * max(prices.error(state), TINY))


def _filled(feared: Prices, state: State, budget: float, least: float) -> State:
    growing = Growing(budget - feared.cost(state), least)
    walk = _walk(feared, state, growing)
    while (added := walk.step()) is not None:
        growing.spare -= added
        walk.doubt()
    return walk.ledger.state


def balanced(prices: Prices, state: State, budget: float) -> State:
    """Returns the best widths found within a budget, none of which would better change alone.

    A path never takes back what it has done. From where it is, widths are made narrower and
    wider as long as error and cost at a price λ become less together; λ is bisected to what the
    budget affords, and what is left over is filled.

    Args:
      prices: of widths.
      state: where to start; returned itself if nothing better is found.
      budget: the largest cost.
    """
    feared = prices.feared
    best, least = state, feared.error(state)
    price = least / max(feared.cost(feared.start) - feared.cost(state), 1.0)
    low, high = price / SPAN, price * SPAN
    for _ in range(PRICES):
        price = float(np.sqrt(low * high))
        found = _at_price(feared, state, price)
        if feared.cost(found) > budget:
            low = price
            continue
        high = price
        found = _filled(feared, found, budget, GAIN * max(prices.error(found), TINY))
        error = feared.error(found)
        if error < least:
            best, least = found, error
    return best


def _at_price(feared: Prices, state: State, price: float) -> State:
    """Widths from which no single one can change for less error and cost."""
    least = GAIN * max(feared.error(state), TINY)
    walk, moved = _walk(feared, state, Balancing(price, least)), True
    while moved:  # what one move makes of another is looked at again at the end
        moved = False
        walk.anew()
        while walk.step() is not None:
            moved = True
    return walk.ledger.state


def smallest(steps: Sequence[Step]) -> Step:
    """Returns the smallest network of a path."""
    return min(steps, key=lambda step: step.cost)
