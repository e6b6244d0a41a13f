"""How one width may change in a step: narrower on the way down, wider to use up a budget."""

from typing import NamedTuple

import numpy as np

Array = np.ndarray

STEPS = (0.92, 0.7, 0.4, 0.0)
"""Factors by which a move shrinks a width."""
FREE = (1e-9, 1e-7, 1e-5)
"""Shares of a site's error that hardly count: a move may remove all units that are worth less."""
SPLITS = np.linspace(0.0, 1.0, 9)
"""Shares of a width that a move may give to linear units."""
FIRST = (1.0, 0.8, 0.6, 0.4, 0.25, 0.15, 0.08)
"""Shares of a kernel's full rank that it may have at first."""
GROWTH = (8, 32, 10**9)
"""Widths grow by one part in so many, at least by one."""


class Sizes(NamedTuple):
    """Candidates: numbers of coordinates and of linear ones, in floating point for costs."""

    units: Array
    linears: Array


class Room(NamedTuple):
    """What a site may be narrowed to.

    Attributes:
      errors: ``(m + 1, r + 1)``, see :class:`~linjax.fold.engine.surface.Surface`.
      least: fewest coordinates and linear ones together.
      multiple: numbers of either are multiples of this, unless all are kept.
      fixed: whether it stays as it is.
    """

    errors: Array
    least: int = 0
    multiple: int = 1
    fixed: bool = False


def down(n: int, multiple: int) -> int:
    """Returns a number rounded down to a multiple.

    >>> down(21, 8), down(5, 8)
    (16, 0)
    """
    return n - n % multiple


def narrower(room: Room, units: int, linears: int) -> Sizes:
    """Returns the widths that a site may take next: smaller, and split anew.

    Widths shrink by :data:`STEPS`, shared between coordinates and linear ones by
    :data:`SPLITS`; or all coordinates go that are worth nothing.
    """
    limit, multiple = room.errors.shape[1] - 1, room.multiple
    width = units + linears
    found = set()
    for share in STEPS:
        wide = int(np.ceil(width * share)) - (share == STEPS[0])
        wide = max(wide, room.least)
        if wide >= width:
            continue
        for part in {min(round(s * wide), limit) for s in SPLITS.tolist()}:
            r = down(part, multiple)
            found.add((down(min(wide - part, units), multiple), r))
    errors = room.errors[: units + 1, min(linears, limit)]
    for share in FREE:
        needed = int(np.argmax(errors <= errors[-1] + share * errors[0]))
        # Up to a multiple, not down: what is needed stays.
        found.add((min(-(-needed // multiple) * multiple, units), linears))
    return _sizes(found, (units, linears), room.least)


def wider(room: Room, units: int, linears: int) -> Sizes:
    """Returns the widths that a site may grow to, one of its two numbers at a time."""
    most, limit = room.errors.shape[0] - 1, room.errors.shape[1] - 1
    found = {(k, linears) for k in grown(units, most, room.multiple)}
    found |= {(units, r) for r in grown(linears, limit, room.multiple)}
    return _sizes(found, (units, linears), room.least)


def _sizes(found: set[tuple[int, int]], now: tuple[int, int], least: int) -> Sizes:
    pairs = sorted(pair for pair in found if pair != now and sum(pair) >= least)
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return Sizes(table[:, 0], table[:, 1])


def grown(width: int, limit: int, multiple: int = 1) -> list[int]:
    """Returns larger numbers up to a limit, multiples."""
    larger = set()
    for share in GROWTH:
        goal = width + max(width // share, 1)
        larger.add(max(down(goal, multiple), (width // multiple + 1) * multiple))
    return sorted(w for w in larger if width < w <= limit)


def ranks_below(rank: int, full: int, multiple: int) -> Array:
    """Returns the ranks that a kernel may take next, 0 for no factor."""
    if full <= 0:
        return np.zeros(0, np.int64)
    if not rank:
        found = {int(np.ceil(full * share)) for share in FIRST}
    else:
        found = {int(np.ceil(rank * s)) - (s == STEPS[0]) for s in STEPS[:3]}
    ranks = {down(s, multiple) for s in found if s >= 1} - {rank}
    return np.array(sorted(ranks | ({0} if rank else set())), np.int64)


def ranks_above(rank: int, full: int, multiple: int) -> Array:
    """Returns the ranks that a factored kernel may grow to, 0 for no factor."""
    if not rank:
        return np.zeros(0, np.int64)
    return np.array([0, *grown(rank, full, multiple)], np.int64)
