"""Using up a budget: moves on the path are coarse, and what they leave over is spent again."""

import functools
from collections.abc import Callable, Iterator

from linjax.fold.least_squares.budget import (
    CARRY,
    Prices,
    Shape,
    linked,
    predicted,
    sizes_of,
    stored,
)

GROWTH = (8, 32, 10**9)
"""Widths grow by one part in so many, at least by one."""


def filled(chains: tuple[Prices, ...], shapes: tuple[Shape, ...], spare: int) -> tuple[Shape, ...]:
    """Widens chains for the most error taken away per parameter, until nothing more fits.

    Args:
      chains: prices of each chain.
      shapes: widths of each chain.
      spare: parameters that may be added.
    """
    now = list(shapes)
    together = linked(chains)

    def best_of(c: int) -> tuple[float, int, Shape] | None:
        size_of = sizes_of(chains, now, c) if together else functools.partial(stored, chains[c])
        return _best(chains[c], now[c], spare, size_of)

    best = list(map(best_of, range(len(chains))))
    while True:
        open_chains = [c for c, move in enumerate(best) if move is not None]
        if not open_chains:
            return tuple(now)
        c = max(open_chains, key=lambda c: best[c][0])
        _, more, now[c] = best[c]
        spare -= more
        best = list(map(best_of, range(len(chains))))


def _best(
    prices: Prices, shape: Shape, spare: int, size_of: Callable[[Shape], int]
) -> tuple[float, int, Shape] | None:
    """The wider shape that takes away most error per parameter; how much, and what it costs."""
    size, error = size_of(shape), predicted(prices, shape)
    found: tuple[float, int, Shape] | None = None
    for candidate in _wider(prices, shape):
        more = size_of(candidate) - size
        gain = error - predicted(prices, candidate)
        # Where width costs nothing (behind a bottleneck that goes), any gain is worth it.
        worth = gain / max(more, 1)
        if more <= spare and gain > 1e-9 * error and (found is None or worth > found[0]):
            found = worth, more, candidate
    return found


def _wider(prices: Prices, shape: Shape) -> Iterator[Shape]:
    """Shapes with one width a little larger."""
    if prices.link.settled:
        return
    for i, surface in enumerate(prices.sites):
        for k in _grown(shape.units[i], prices.start.units[i]):
            yield shape.put("units", i, k)
        if shape.linears[i] != CARRY:
            for r in _grown(shape.linears[i], surface.shape[1] - 1):
                yield shape.put("linears", i, r)
    for i, curve in enumerate(prices.necks):
        if shape.necks[i]:
            for rank in _grown(shape.necks[i], len(curve) - 1):
                yield shape.put("necks", i, rank)


def _grown(width: int, limit: int) -> list[int]:
    wider = {width + max(width // share, 1) for share in GROWTH}
    return sorted(w for w in wider if w <= limit)
