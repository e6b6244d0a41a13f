"""Dimensions, and axes made of them.

Every axis of every value is a dimension, a product of some (flattened by a reshape, the last
one running fastest) or a sum of some (concatenated). Axes that an operation ties together are
unified; where one is found to be made of several, it is refined.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from enum import Enum

import numpy as np


class Kind(Enum):
    """How an axis is made of others."""

    ATOM = "dimension"
    PRODUCT = "product"
    SUM = "sum"


_numbers = itertools.count()

LOOKED_UP = "its entries are looked up"
IS_INPUT, IS_OUTPUT = "it is the network's input", "it is the network's output"
OPAQUE = "which isn't known to act by coordinate"
HINTS = {
    "while": "a while loop: a scan or a fori_loop of as many steps would be followed",
    "cond": "a branch: a network traced with the branch that is taken would be followed",
    "custom_vjp_call": "a function with a derivative of its own (custom_vjp)",
    "shard_map": "a sharded region (shard_map): the function inside it would be followed",
    "bitcast_convert_type": (
        "bits taken as numbers, as random ones are (dropout in training): traced as it evaluates, "
        "the network would be followed"
    ),
    "pallas_call": "a kernel written in Pallas: what it computes, in jax.numpy, would be followed",
}
"""Reasons by operations that are not looked into; what each says to do is done in the tests."""
WHOLE = frozenset(HINTS.values())
ENDS = frozenset((IS_INPUT, IS_OUTPUT))
"""Reasons why the axes of inputs and outputs must stay, whatever happens between."""


class Axis:
    """A node of the union–find: a dimension, or a product or sum of axes.

    Attributes:
      id: a number; that of the representative names the dimension.
      size: number of entries in the traced network.
      kind: whether it is a dimension, a product or a sum.
      parts: what it is made of.
      reasons: why its coordinates must stay as they are, in the order found.
    """

    __slots__ = ("_same", "id", "kind", "parts", "reasons", "size")

    def __init__(self, size: int) -> None:
        self.id = next(_numbers)
        self.size = int(size) if isinstance(size, np.integer) else size  # symbolic ones stay
        self.kind = Kind.ATOM
        self.parts: tuple[Axis, ...] = ()
        self.reasons: dict[str, None] = {}
        self._same: Axis | None = None

    def __repr__(self) -> str:
        own = find(self)
        if own.kind is Kind.ATOM:
            return f"d{own.id}:{own.size}"
        sign = "·" if own.kind is Kind.PRODUCT else "+"
        return "(" + sign.join(map(repr, own.parts)) + ")"


Axes = tuple[Axis, ...]


def find(axis: Axis) -> Axis:
    """Returns the representative of an axis."""
    while axis._same is not None:
        if axis._same._same is not None:
            axis._same = axis._same._same  # shortens the way for the next one
        axis = axis._same
    return axis


def atoms(axis: Axis) -> list[Axis]:
    """Returns the dimensions that an axis is made of, in order; one may occur several times."""
    axis = find(axis)
    if axis.kind is Kind.ATOM:
        return [axis]
    return [atom for part in axis.parts for atom in atoms(part)]


def freeze(axis: Axis, reason: str) -> None:
    """Notes that an axis must stay as it is, and why."""
    for atom in atoms(axis):
        atom.reasons[reason] = None


def product(parts: Sequence[Axis]) -> Axis:
    """Returns the axis that flattening some axes gives."""
    return _made(Kind.PRODUCT, [p for p in parts if find(p).size != 1] or list(parts[:1]))


def total(parts: Sequence[Axis]) -> Axis:
    """Returns the axis that concatenating some axes gives."""
    return _made(Kind.SUM, list(parts))


def _made(kind: Kind, parts: list[Axis]) -> Axis:
    if len(parts) == 1:
        return parts[0]
    sizes = [find(p).size for p in parts]
    axis = Axis(math.prod(sizes) if kind is Kind.PRODUCT else sum(sizes))
    axis.kind, axis.parts = kind, tuple(parts)
    return axis


def flat(axis: Axis, kind: Kind) -> list[Axis]:
    """Returns the factors (or summands) of an axis, nested ones taken apart."""
    axis = find(axis)
    if axis.kind is kind:
        return [part for own in axis.parts for part in flat(own, kind)]
    return [axis]


def unify(a: Axis, b: Axis) -> None:
    """Makes two axes of the same size one; freezes both where their makings don't line up."""
    a, b = find(a), find(b)
    if a is b:
        return
    if a.kind is Kind.ATOM:
        a, b = b, a
    if b.kind is Kind.ATOM:
        if a.kind is not Kind.ATOM and b in atoms(a):
            return freeze(a, "it would be a part of itself")
        for reason in b.reasons:
            freeze(a, reason)
        b._same = a
        return None
    if a.kind is b.kind:
        pairs = align(flat(a, a.kind), flat(b, a.kind), a.kind)
        if pairs is not None:
            for x, y in pairs:
                unify(x, y)
            return None
    reason = "it is cut in two ways that don't line up"
    freeze(a, reason)
    return freeze(b, reason)


def align(xs: Iterable[Axis], ys: Iterable[Axis], kind: Kind) -> list[tuple[Axis, Axis]] | None:
    """Returns the common refinement of two factorisations (or partitions), None without one.

    Dimensions that turn out to be made of several are refined on the way.
    """
    left, right, pairs = list(xs), list(ys), list[tuple[Axis, Axis]]()
    while left and right:
        x, y = find(left.pop(0)), find(right.pop(0))
        if x.size == y.size:
            pairs.append((x, y))
            continue
        (big, small, rest, other) = (x, y, left, right) if x.size > y.size else (y, x, right, left)
        parts = _parts(big, small.size, kind)
        if parts is None:
            return None
        rest[:0] = parts
        other.insert(0, small)
    return None if left or right else pairs


def _parts(axis: Axis, first: int, kind: Kind) -> list[Axis] | None:
    """The parts of an axis, the first of this size where the axis is a dimension until now."""
    if axis.kind is kind:
        return flat(axis, kind)
    if axis.kind is not Kind.ATOM:
        return None
    if kind is Kind.PRODUCT:
        if first < 1 or axis.size % first:
            return None
        parts = [Axis(first), Axis(axis.size // first)]
    else:
        parts = [Axis(first), Axis(axis.size - first)]
    for part in parts:
        part.reasons.update(axis.reasons)
    axis.kind, axis.parts = kind, tuple(parts)
    return parts


def run(axis: Axis, start: int, stop: int) -> Axis:
    """Returns the axis of the entries from ``start`` to ``stop``: the axis becomes a sum.

    Where whole runs of a product's last factors are taken, its first factor becomes one.
    """
    size = find(axis).size
    if (start, stop) == (0, size):
        return axis
    if find(axis).kind is Kind.PRODUCT:
        first, *rest = flat(axis, Kind.PRODUCT)
        inner = math.prod(find(part).size for part in rest)
        if start % inner == 0 and stop % inner == 0:
            return product([run(first, start // inner, stop // inner), *rest])
    points = sorted({0, start, stop, size})
    parts = [Axis(b - a) for a, b in itertools.pairwise(points)]
    unify(axis, total(parts))
    inside = [p for p, at in zip(parts, points, strict=False) if start <= at < stop]
    return total(inside) if inside else Axis(0)
