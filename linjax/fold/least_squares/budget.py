"""Spending parameters where they take away the most error: one greedy path over all budgets."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray

CARRY = -1
"""In place of a number of linear units: the features themselves travel on."""
STEPS = (0.92, 0.7, 0.4, 0.0)
"""Factors by which a move shrinks a width."""
FREE = (1e-9, 1e-7, 1e-5)
"""Shares of a site's error that hardly count: a move may remove all units that are worth less."""
SPLITS = np.linspace(0.0, 1.0, 9)
"""Shares of a width that a move may give to linear units."""


class Shape(NamedTuple):
    """Widths of a folded chain.

    Attributes:
      necks: rank of the bottleneck in front of each layer, 0 without one.
      units: number of units of each layer that keep their activation (the last: outputs).
      linears: number of linear units beside them, CARRY where the features travel on.
    """

    necks: tuple[int, ...]
    units: tuple[int, ...]
    linears: tuple[int, ...]

    def put(self, field: str, i: int, value: int) -> "Shape":
        """Returns the shape with one number replaced."""
        values = list(getattr(self, field))
        values[i] = value
        return self._replace(**{field: tuple(values)})


class Link(NamedTuple):
    """How a chain hangs together with others.

    Attributes:
      trunks: for each of the maps that it begins with, the index of the chain whose last
        activation it reads, -1 for none.
      widths: the number of features that each of them reads.
      elsewhere: number of its last layer's outputs that are the units of branches, whose
        weights are counted there.
      settled: whether branches behind it keep it as it is.
    """

    trunks: tuple[int, ...] = (-1,)
    widths: tuple[int, ...] = ()
    elsewhere: int = 0
    settled: bool = False

    @property
    def branch(self) -> bool:
        """Whether the chain reads another's last activation."""
        return max(self.trunks) >= 0

    def reads(self, ends: Sequence[int]) -> int | None:
        """Number of features that the chain reads where others end so; None where that's fixed."""
        if not self.branch:
            return None
        pairs = zip(self.trunks, self.widths, strict=True)
        return sum(width if trunk < 0 else ends[trunk] for trunk, width in pairs)


class Prices(NamedTuple):
    """What a chain's widths cost in predicted output error.

    Attributes:
      reads: width of the chain's input.
      start: the chain as it is.
      kernels: number of kernels that make each layer's units, more than one where gated.
      sites: one ``(m + 1, r + 1)`` error surface per site; its last column is that of CARRY.
      necks: per layer, ``(s + 1,)`` errors of bottlenecks of rank 0 … s.
      output: the outputs' variance in the same metric, seen from this chain.
      link: how it hangs together with other chains.
    """

    reads: int
    start: Shape
    kernels: tuple[int, ...]
    sites: tuple[Array, ...]
    necks: tuple[Array, ...]
    output: float
    link: Link = Link()


def stored(prices: Prices, shape: Shape, reads: int | None = None) -> int:
    """Returns the number of parameters that a chain of this shape stores.

    Args:
      prices: the chain's.
      shape: its widths.
      reads: width of its input where that has changed.
    """
    return _walked(prices, shape, reads)[0]


def _walked(prices: Prices, shape: Shape, reads: int | None) -> tuple[int, int]:
    """Parameters, and the number of features that the last layer reads."""
    total, width = 0, prices.reads if reads is None else reads
    before = width
    for kernels, neck, units, linears in zip(prices.kernels, *shape, strict=True):
        before = width
        if neck:
            total += width * neck
            width = neck
        made = units + max(linears, 0)
        total += width * (made + (kernels - 1) * units) + kernels * units
        width = made + width if linears == CARRY else made
    return total - prices.link.elsewhere * (before + 1), before


def stored_together(chains: Sequence[Prices], shapes: Sequence[Shape]) -> int:
    """Returns the number of parameters of all chains; branches read what their trunk leaves."""
    total, ends = 0, list[int]()
    for prices, shape in zip(chains, shapes, strict=True):
        size, end = _walked(prices, shape, prices.link.reads(ends))
        total += size
        ends.append(end)
    return total


def linked(chains: Sequence[Prices]) -> bool:
    """Whether some chain is a branch of another."""
    return any(prices.link.branch for prices in chains)


def predicted(prices: Prices, shape: Shape) -> float:
    """Returns the predicted squared output error of a shape: errors of all parts, added."""
    error = 0.0
    for surface, units, linears in zip(prices.sites, shape.units, shape.linears, strict=False):
        error += surface[units, min(linears, surface.shape[1] - 1)]
    for curve, neck in zip(prices.necks, shape.necks, strict=True):
        if neck:
            error += curve[min(neck, len(curve) - 1)]
    return float(error)


def _site_moves(shape: Shape, surface: Array, i: int) -> Iterator[Shape]:
    """Shrinks a site's width and splits it anew between kept and linear units."""
    units, linears = shape.units[i], shape.linears[i]
    limit = surface.shape[1] - 1
    widths = {int(np.ceil((units + max(linears, 0)) * f)) - (f == STEPS[0]) for f in STEPS}
    for width in sorted(w for w in widths if w >= 0):
        for r in {min(round(share * width), limit) for share in SPLITS}:
            yield shape.put("units", i, min(width - r, units)).put("linears", i, r)
    errors = surface[: units + 1, min(linears, limit)]
    for share in FREE:  # the rest are dead or combinations
        needed = int(np.argmax(errors <= errors[-1] + share * errors[0]))
        yield shape.put("units", i, needed)
    for k in {int(np.ceil(units * f)) for f in STEPS} | {units}:
        yield shape.put("units", i, k).put("linears", i, CARRY)


def _neck_moves(shape: Shape, curve: Array, i: int) -> Iterator[Shape]:
    """Puts a bottleneck in front of a layer, or narrows the one that is there."""
    now = shape.necks[i]
    ranks = {int(np.ceil(now * f)) - (f == STEPS[0]) for f in STEPS[:3]} if now else set()
    first = {int(np.ceil((len(curve) - 1) * f)) for f in (1.0, 0.8, 0.6, 0.4, 0.25, 0.15, 0.08)}
    for rank in ranks if now else first:
        if rank >= 1:
            yield shape.put("necks", i, rank)
    if now:
        yield shape.put("necks", i, 0)


def moves(prices: Prices, shape: Shape) -> Iterator[Shape]:
    """Yields the shapes that are one step smaller somewhere."""
    if prices.link.settled:
        return
    for i, surface in enumerate(prices.sites):
        yield from _site_moves(shape, surface, i)
    for i, curve in enumerate(prices.necks):
        yield from _neck_moves(shape, curve, i)


class Step(NamedTuple):
    """A point on the path: all chains' shapes, their parameters and predicted squared error."""

    shapes: tuple[Shape, ...]
    parameters: int
    error: float


class _Move(NamedTuple):
    shape: Shape
    saved: int
    worse: float


def best_move(
    prices: Prices, shape: Shape, size_of: Callable[[Shape], int] | None = None
) -> _Move | None:
    """The move with the least error per parameter saved; among free ones the largest.

    ``size_of`` counts parameters, by default those of the chain alone.
    """
    size_of = size_of or functools.partial(stored, prices)
    size, error = size_of(shape), predicted(prices, shape)
    best = None
    for candidate in moves(prices, shape):
        saved = size - size_of(candidate)
        if saved <= 0:
            continue
        worse = max(predicted(prices, candidate) - error, 0.0)
        if best is None or (worse / saved, -saved) < (best.worse / best.saved, -best.saved):
            best = _Move(candidate, saved, worse)
    return best


def sizes_of(chains: Sequence[Prices], shapes: Sequence[Shape], c: int) -> Callable[[Shape], int]:
    """Returns what counts the parameters of all chains where one of them takes another shape."""

    def size_of(candidate: Shape) -> int:
        return stored_together(chains, [*shapes[:c], candidate, *shapes[c + 1 :]])

    return size_of


def path(chains: tuple[Prices, ...], fixed: int = 0) -> Iterator[Step]:
    """Yields ever smaller networks, each the previous one after its cheapest move.

    The price of a move is the predicted error that it adds per parameter that it saves. One
    path serves every budget, and chains share it. It ends at the smallest valid network.

    Args:
      chains: prices of each chain.
      fixed: parameters that no move can save.
    """
    shapes = [prices.start for prices in chains]
    together = linked(chains)

    def best_of(c: int) -> _Move | None:
        size_of = sizes_of(chains, shapes, c) if together else None
        return best_move(chains[c], shapes[c], size_of)

    best = list(map(best_of, range(len(chains))))
    while True:
        size = fixed + stored_together(chains, shapes)
        error = sum(predicted(p, s) for p, s in zip(chains, shapes, strict=True))
        yield Step(tuple(shapes), size, error)
        open_chains = [c for c, move in enumerate(best) if move is not None]
        if not open_chains:
            return
        c = min(open_chains, key=lambda c: best[c].worse / best[c].saved)
        shapes[c] = best[c].shape
        for i in range(len(chains)) if together else (c,):
            best[i] = best_of(i)


def rounded(shape: Shape, multiple: int) -> Shape:
    """Rounds widths down to a multiple where they reach it; the last layer's stay."""

    def down(n: int) -> int:
        return n if n < multiple else n - n % multiple

    return Shape(
        tuple(map(down, shape.necks)),
        (*map(down, shape.units[:-1]), shape.units[-1]),
        tuple(map(down, shape.linears)),
    )
