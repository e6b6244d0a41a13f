"""Units that are multiples of one another: told by each of their weights, not by their sum.

A large bias, or one large weight, says nothing about the others: two units ``(1, b)`` and
``(-1, b)`` with b = 1e7 point almost the same way and compute different functions. So every
weight is compared with its counterpart, and the bias with the weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from linjax.program.precision import epsilon, lost

Array = Any

MOST = 2.0**-10
"""Whatever the dtype: relative differences of weights beyond this are no rounding."""
FLOAT64 = 2.0**-49
"""Relative rounding errors of the few operations in float64 that compare two columns."""


class Classes(NamedTuple):
    """A partition of the columns of a matrix into proportional ones.

    Attributes:
      leader: ``(m,)`` int, each column's representative; the column itself if it is one.
      ratio: ``(m,)`` float64 ρ > 0, with ``column ≈ ρ · column[leader]``.
    """

    leader: Array
    ratio: Array


class Made(NamedTuple):
    """Units ``z = v W + c``: ``(p, m)`` weights and ``(s, m)`` shifts, added one after another."""

    kernel: Array
    shift: Array


def rounding(dtype: DTypeLike) -> float:
    """How far a weight may be from a multiple of another, relatively: ``min(4 ε, 2⁻¹⁰)``.

    Multiples are off by this once they are rounded to the dtype, except in float16 and bfloat16,
    where rounding alone may make a difference that shows: there multiples have to be closer.
    """
    return min(4 * epsilon(dtype), MOST)


def visible(dtype: DTypeLike) -> float:
    """What share of a sum its rounding to a dtype may change: 64 ε, in 16 bits and fewer 4 ε."""
    eps = epsilon(dtype)
    return max(4 * eps, min(64 * eps, 2.0**-12))


def multiples(
    kernel: Array, bias: Array, kind: Array, relative: float, tolerance: float = 0.0,
    noise: Array | None = None,
) -> Classes:  # fmt: skip
    """Partitions units into multiples of one another, by each of their weights.

    ``(w, b)`` and ``ρ (w', b')`` are the same if ``|w − ρ w'| ≤ relative |w|`` for each weight
    and ``|b − ρ b'| ≤ relative min(|b|, ‖w‖)``. Then pre-activations differ by at most
    ``relative (|w| · |v| + ‖w‖)`` for features v, however large biases are.

    Args:
      kernel: ``(p, m)`` incoming weights.
      bias: ``(m,)``; no unit has neither weights nor a bias.
      kind: ``(m,)`` integers; only units of one kind are ever joined.
      relative: see above.
      tolerance: units are the same, too, if ``‖(w, b) − ρ (w', b')‖ ≤ tolerance ‖w‖``.
      noise: ``(p + 1, m)`` how far weights and biases may be off by earlier roundings.
    """
    columns = np.concatenate([kernel, bias[None]])
    noise = np.zeros_like(columns) if noise is None else noise
    length = np.linalg.norm(kernel, axis=0)
    if not tolerance:  # multiples have the signs of their representative: this tells most apart
        signs = np.where(np.abs(columns) > noise, np.sign(columns), 0)
        _, kind = np.unique(np.concatenate([signs, kind[None]]), axis=1, return_inverse=True)
        kind = kind.reshape(-1)

    def same(units: Array, others: Array, ratio: Array) -> np.ndarray:
        mine = columns[:, units]
        apart = np.abs(mine - ratio * columns[:, others])
        allowed = relative * np.abs(mine) + noise[:, units] + ratio * noise[:, others]
        large, size = np.abs(mine[-1]), length[units]
        shift = relative * np.minimum(large, size) + np.minimum(
            FLOAT64 * large, 16 * relative * size
        )
        allowed[-1] = shift + noise[-1, units] + ratio * noise[-1, others]
        close = np.linalg.norm(apart, axis=0) <= tolerance * length[units]
        return np.asarray((apart <= allowed).all(axis=0) | (close & (tolerance > 0)))

    gap = np.linalg.norm(noise, axis=0) / np.linalg.norm(columns, axis=0)
    return proportional_classes(
        columns, kind, max(2 * relative, tolerance) + 2 * float(gap.max(initial=0.0)), same
    )


def in_proportion(
    parts: Sequence[Made], kind: Array, relative: float, tolerance: float = 0.0
) -> Classes:
    """Partitions units into multiples in all of their kernels and shifts, see :func:`multiples`.

    Args:
      parts: what makes the units; those of all parts have the same ratio.
      kind: ``(m,)`` integers; only units of one kind are ever joined.
      relative: as there.
      tolerance: as there.

    Returns:
      The classes; the representative of a unit that is zero everywhere is −1, its ratio one.
    """
    kernel = np.concatenate([part.kernel for part in parts])
    shifts = [(row, np.linalg.norm(p.kernel, axis=0)) for p in parts for row in p.shift]
    rows = np.concatenate([kernel, *(part.shift for part in parts)])
    leader, ratio = np.arange(len(kind)), np.ones(len(kind))
    zero, live = ~rows.any(axis=0), np.flatnonzero(kernel.any(axis=0))
    leader[zero] = -1
    if len(live):
        own = kind[live]
        for row, _ in shifts:
            own = multiples(kernel[:, live], row[live], own, relative, tolerance).leader
        leader[live] = live[own]
    size = np.linalg.norm(rows, axis=0)
    np.divide(size, size[leader], out=ratio, where=~zero)
    apart = np.abs(rows - ratio * rows[:, leader])
    same = apart[: len(kernel)] <= relative * np.abs(kernel)
    close = np.linalg.norm(apart, axis=0) <= tolerance * np.linalg.norm(kernel, axis=0)
    fits = same.all(axis=0)
    for (row, length), off in zip(shifts, apart[len(kernel) :], strict=True):
        large = np.abs(row)
        allowed = relative * np.minimum(large, length)
        fits &= off <= allowed + np.minimum(FLOAT64 * large, 16 * relative * length)
    alone = ~zero & ~(fits | (close & (tolerance > 0)))
    leader = np.where(alone, np.arange(len(kind)), leader)
    return Classes(leader, np.where(alone | zero, 1.0, ratio))


def proportional_classes(
    columns: Array,
    kind: Array,
    tolerance: float,
    same: Callable[[Array, Array, Array], Array] | None = None,
) -> Classes:
    """Partitions columns by direction.

    Normalised columns are sorted by their inner product with a fixed random vector: equal
    ones end up side by side, and only neighbours are compared. Linear in the number of
    entries as long as the tolerance does not join columns that turn out to differ.

    Args:
      columns: ``(p, m)`` without zero columns.
      kind: ``(m,)`` integers; only columns of one kind are ever joined.
      tolerance: greatest Euclidean distance of normalised columns.
      same: of columns, others and ratios, whether they are to be joined; by default all that
        are within the tolerance.
    """
    count = columns.shape[1]
    norm = np.linalg.norm(columns, axis=0)
    unit = columns / norm
    probe = np.random.default_rng(0).normal(size=len(columns))
    key = probe @ unit
    order = np.lexsort((key, kind))
    apart = np.diff(key[order]) > np.linalg.norm(probe) * tolerance
    run = np.zeros(count, int)
    run[order[1:]] = np.cumsum(apart | (np.diff(kind[order]) != 0))
    leader, left = np.full(count, -1), np.arange(count)
    while len(left):
        _, first, place = np.unique(run[left], return_index=True, return_inverse=True)
        candidate = left[first][place]
        joined = candidate == left
        other = np.flatnonzero(~joined)
        pair = left[other], candidate[other]
        if same is None:
            joined[other] = np.linalg.norm(unit[:, pair[0]] - unit[:, pair[1]], axis=0) <= tolerance
        else:
            joined[other] = same(*pair, norm[pair[0]] / norm[pair[1]])
        leader[left[joined]] = candidate[joined]
        left = left[~joined]
    return Classes(leader, norm / norm[leader])


def storable(
    rows: Array, merged: Array, leader: Array, kernel: Array, bias: Array, dtype: DTypeLike
) -> np.ndarray:
    """Whether the sums of classes' rows can be rounded to a dtype: ``(m,)`` by representative.

    Rounding a sum moves what is read by the rounding error times the unit, whose values reach
    ``‖w‖ + |b|`` for features of length one. It may by the share :func:`visible` of what the
    class passes on for such features, bias apart: ``Σ |row| ‖w‖``. So biases up to some 100 times
    the weights pass in float32, some seven times in float16 and bfloat16, and any whose sums need
    no rounding.

    Args:
      rows: ``(m, q)`` what reads the units.
      merged: ``(m, q)`` the classes' weighted sums, in their representatives' places.
      leader: ``(m,)`` each unit's representative.
      kernel: ``(p, m)`` incoming weights.
      bias: ``(m,)``.
      dtype: what the sums are rounded to.
    """
    length = np.linalg.norm(kernel, axis=0)
    error = lost(merged, dtype)
    joined = np.bincount(leader, minlength=len(leader))[:, None] > 1
    error += joined * 2.0**-53 * np.abs(merged)  # the sums themselves are rounded to float64
    passed = np.zeros_like(merged)
    np.add.at(passed, leader, np.abs(rows) * length[:, None])
    reach = (length + np.abs(bias))[:, None]
    return np.asarray((error * reach <= visible(dtype) * passed).all(axis=1))
