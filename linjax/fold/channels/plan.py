"""Spending one budget on channels and dense chains: a greedy path over all sizes."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from linjax.fold.least_squares.budget import (
    Prices,
    Shape,
    best_move,
    moves,
    predicted,
    rounded,
    stored,
)

Array = np.ndarray


class Cost(NamedTuple):
    """What a site's channels cost, given the widths of the sites that it reads from.

    Attributes:
      taps: places that its convolution reads together, over the number of its groups.
      others: channels that it reads and that don't come from sites.
      sources: indices of the sites that the others come from.
      own: parameters of each unit elsewhere: its bias, parameters of its activation.
      bias: parameters of each linear channel beside its kernel.
      step: how many channels can only go together, one of each group.
    """

    taps: float
    others: int
    sources: tuple[int, ...]
    own: int
    bias: int
    step: int = 1


class Read(NamedTuple):
    """What each channel of a site costs in a reader that isn't a site itself, nor in a chain.

    Attributes:
      source: the site.
      per_channel: parameters of the reader for each channel.
    """

    source: int
    per_channel: float


class Chained(NamedTuple):
    """A dense chain, and where its input comes from.

    Attributes:
      prices: what its widths cost.
      sources: indices of the sites that it reads.
      others: channels that it reads beside those, or features where it reads no site's.
      places: features that each channel is to the chain.
    """

    prices: Prices
    sources: tuple[int, ...]
    others: int
    places: int


class Landscape(NamedTuple):
    """All that a plan decides about.

    Attributes:
      surfaces: ``(n + 1, r + 1)`` error by site, kept channels and linear ones.
      starts: channels and linear channels of each site as it is, the latter among the former.
      costs: of each site.
      reads: readers that are neither sites nor in chains.
      chains: the dense chains.
      fixed: parameters that nothing can change.
    """

    surfaces: tuple[Array, ...]
    starts: tuple[int, ...]
    costs: tuple[Cost, ...]
    reads: tuple[Read, ...]
    chains: tuple[Chained, ...]
    fixed: int


class State(NamedTuple):
    """Widths: (kept channels, linear channels) of each site, and shapes of dense chains."""

    widths: tuple[tuple[int, int], ...]
    shapes: tuple[Shape, ...]


class Step(NamedTuple):
    """A point on the path: widths, parameters of the network, predicted squared error."""

    state: State
    parameters: int
    error: float


def start(land: Landscape) -> State:
    """Returns the network as it is."""
    return State(tuple((n, 0) for n in land.starts), tuple(c.prices.start for c in land.chains))


def parameters(land: Landscape, state: State) -> int:
    """Returns the number of parameters of the whole network."""
    return round(_size(land, state))


def _size(land: Landscape, state: State) -> float:
    """The number of parameters; a fraction where groups would have different widths."""
    total: float = land.fixed
    totals = [k + r for k, r in state.widths]
    for cost, (k, r) in zip(land.costs, state.widths, strict=True):
        reads = cost.others + sum(totals[source] for source in cost.sources)
        total += cost.taps * reads * (k + r) + cost.own * k + cost.bias * r
    total += sum(read.per_channel * totals[read.source] for read in land.reads)
    for chain, shape in zip(land.chains, state.shapes, strict=True):
        total += stored(_seen(chain, totals), shape)
    return total


def _seen(chain: Chained, totals: list[int]) -> Prices:
    """A chain's prices with as many inputs as there are now."""
    channels = chain.others + sum(totals[source] for source in chain.sources)
    return chain.prices._replace(reads=channels * chain.places)


def error(land: Landscape, state: State) -> float:
    """Returns the predicted squared output error: errors of all parts, added."""
    sites = sum(s[k, r] for s, (k, r) in zip(land.surfaces, state.widths, strict=True))
    chains = sum(
        predicted(c.prices, shape) for c, shape in zip(land.chains, state.shapes, strict=True)
    )
    return float(sites + chains)


class _Move(NamedTuple):
    state: State
    price: float
    saved: float


def _with_width(state: State, site: int, units: int, linears: int) -> State:
    widths = (*state.widths[:site], (units, linears), *state.widths[site + 1 :])
    return state._replace(widths=widths)


def _saved(land: Landscape, state: State, site: int) -> Array:
    """Parameters that every width of a site saves; negative where it isn't one to go to.

    With all other widths as they are, the parameters are linear in the site's.
    """
    k, r = state.widths[site]
    now = _size(land, state)
    more = _size(land, _with_width(state, site, k, r + 1)) - now
    each = now - _size(land, _with_width(state, site, k - 1, r)) if k else more
    surface = land.surfaces[site]
    units = np.arange(surface.shape[0])[:, None]
    linears = np.arange(surface.shape[1])[None, :]
    saved = (k - units) * each + (r - linears) * more
    allowed = (units + linears >= 1) & (units <= k) & (units % land.costs[site].step == 0)
    return np.where(allowed, saved, -1)


def _site_move(land: Landscape, state: State, site: int) -> _Move | None:
    """The cheapest narrowing of a site: error added per parameter saved."""
    k, r = state.widths[site]
    saved, surface = _saved(land, state, site), land.surfaces[site]
    allowed = saved > 0
    if not allowed.any():
        return None
    worse = np.maximum(surface - surface[k, r], 0.0)
    price = np.where(allowed, worse / np.where(allowed, saved, 1), np.inf)
    least = price.min()
    best = np.argmax(np.where(price <= least, saved, -1))
    i, j = map(int, np.unravel_index(int(best), price.shape))
    return _Move(_with_width(state, site, i, j), float(least), float(saved[i, j]))


def fitting(land: Landscape, state: State, budget: int) -> State | None:
    """Returns the state of least error within a budget that one move leads to, if there is one."""
    over = parameters(land, state) - budget
    found: list[State] = []
    for site, surface in enumerate(land.surfaces):
        saved = _saved(land, state, site)
        if (saved >= over).any():
            errors = np.where(saved >= over, surface, np.inf)
            i, j = map(int, np.unravel_index(int(np.argmin(errors)), errors.shape))
            found.append(_with_width(state, site, i, j))
    totals = [k + r for k, r in state.widths]
    for index, (chain, shape) in enumerate(zip(land.chains, state.shapes, strict=True)):
        prices = _seen(chain, totals)
        size = stored(prices, shape)
        enough = [m for m in moves(prices, shape) if size - stored(prices, m) >= over]
        if enough:
            best = min(enough, key=lambda m: predicted(prices, m))
            found.append(_with_shape(state, index, best))
    return min(found, key=lambda state: error(land, state), default=None)


def _with_shape(state: State, index: int, shape: Shape) -> State:
    shapes = (*state.shapes[:index], shape, *state.shapes[index + 1 :])
    return state._replace(shapes=shapes)


def _chain_move(land: Landscape, state: State, index: int) -> _Move | None:
    """The cheapest move of a dense chain."""
    totals = [k + r for k, r in state.widths]
    chain, shape = land.chains[index], state.shapes[index]
    prices = _seen(chain, totals)
    move = best_move(prices, shape)
    if move is None:
        return None
    changed = _with_shape(state, index, move.shape)
    return _Move(changed, move.worse / move.saved, move.saved)


def _neighbours(land: Landscape, changed: int) -> set[int]:
    """Sites, and chains by number behind the last site, whose prices a site's width changes."""
    near = {changed, *land.costs[changed].sources}
    near |= {i for i, cost in enumerate(land.costs) if changed in cost.sources}
    last = len(land.costs)
    return near | {last + i for i, chain in enumerate(land.chains) if changed in chain.sources}


def path(land: Landscape) -> Iterator[Step]:
    """Yields ever smaller networks, each the previous one after its cheapest move."""
    sites = len(land.costs)
    state = start(land)
    known: list[_Move | None] = [None] * (sites + len(land.chains))
    stale = set(range(len(known)))
    while True:
        yield Step(state, parameters(land, state), error(land, state))
        for i in stale:
            known[i] = _site_move(land, state, i) if i < sites else _chain_move(
                land, state, i - sites
            )  # fmt: skip
        open_moves = [(m.price, -m.saved, i) for i, m in enumerate(known) if m is not None]
        if not open_moves:
            return
        _, _, chosen = min(open_moves)
        move = known[chosen]
        if chosen < sites:
            state = _with_width(state, chosen, *move.state.widths[chosen])
            stale = _neighbours(land, chosen)
        else:
            at = chosen - sites
            state = _with_shape(state, at, move.state.shapes[at])
            stale = {chosen, *land.chains[at].sources}


def rounded_state(land: Landscape, state: State, multiple: int) -> State:
    """Rounds widths down to a multiple where they reach it, and groups have as many each."""
    if multiple == 1:
        return state

    def down(n: int, step: int = 1) -> int:
        whole = math.lcm(multiple, step)
        return n if n < whole else n - n % whole

    return State(
        tuple(
            (down(k, c.step), down(r)) for (k, r), c in zip(state.widths, land.costs, strict=True)
        ),
        tuple(rounded(shape, multiple) for shape in state.shapes),
    )
