"""Axes as static descriptions: sizes, where coordinates stand, and arrays taken along them."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.space import Axis, Kind, find, freeze

Array = Any
Sizes = Callable[[int], Any]


class Span(NamedTuple):
    """An axis: a dimension by its number, or a product or sum of spans.

    Attributes:
      dim: number of the dimension, −1 for what is made of several.
      size: number of entries in the traced network.
      flattened: whether the parts are factors, the last one running fastest; else they stand
        side by side.
      parts: what it is made of, empty for a dimension.
    """

    dim: int
    size: int
    flattened: bool = False
    parts: tuple["Span", ...] = ()

    def dims(self) -> list[int]:
        """The dimensions that it is made of, in order."""
        return [d for p in self.parts for d in p.dims()] if self.parts else [self.dim]

    def now(self, size: Sizes) -> Any:
        """Its size where dimensions have other sizes."""
        if not self.parts:
            return size(self.dim)
        sizes = [part.now(size) for part in self.parts]
        return math.prod(sizes) if self.flattened else sum(sizes)

    def point(self, index: int, size: Sizes) -> Any:
        """Where a cut at an index of the traced network is now."""
        if index in (0, self.size):
            return 0 if index == 0 else self.now(size)
        if self.flattened:
            inner = math.prod(p.size for p in self.parts[1:])
            if index % inner == 0:
                own = math.prod(p.now(size) for p in self.parts[1:])
                return self.parts[0].point(index // inner, size) * own
            return index
        at, now = 0, 0
        for part in self.parts:
            if index < at + part.size:
                return now + part.point(index - at, size)
            at, now = at + part.size, now + part.now(size)
        return index


Spans = tuple[Span, ...]


def factors(span: Span) -> set[int]:
    """The dimensions that every entry of an axis has a coordinate of."""
    if not span.parts:
        return {span.dim}
    return set().union(*map(factors, span.parts)) if span.flattened else set()


def companions(spans: Spans, loops: tuple[int, ...] = ()) -> dict[int, set[int]]:
    """By dimension, those that an entry has a coordinate of wherever it has one of this."""
    found: dict[int, set[int]] = {}
    for n, span in enumerate(spans):
        others = set(loops).union(*(factors(s) for k, s in enumerate(spans) if k != n))
        for dim, own in _within(span):
            found[dim] = found[dim] & (others | own) if dim in found else others | own
    return found


def _within(span: Span) -> list[tuple[int, set[int]]]:
    """Every occurrence of a dimension in an axis, and the factors beside it."""
    if not span.parts:
        return [(span.dim, set())]
    found = []
    for k, part in enumerate(span.parts):
        beside = set()
        if span.flattened:
            beside = set().union(*(factors(p) for j, p in enumerate(span.parts) if j != k))
        found += [(dim, own | beside) for dim, own in _within(part)]
    return found


class Numbering:
    """Numbers dimensions as they are met, and turns axes into spans."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.atoms: list[Axis] = []
        self._known: dict[int, Span] = {}
        self._whole: dict[int, Span] = {}

    def span(self, axis: Axis) -> Span:
        """The static description of an axis."""
        axis = find(axis)
        if axis.id not in self._known:
            if axis.kind is Kind.ATOM:
                self.numbers[axis.id] = len(self.atoms)
                self.atoms.append(axis)
                own = Span(self.numbers[axis.id], axis.size)
            else:
                parts = tuple(map(self.span, axis.parts))
                own = Span(-1, axis.size, axis.kind is Kind.PRODUCT, parts)
            self._known[axis.id] = own
        return self._known[axis.id]

    def whole(self, axis: Axis) -> Span:
        """A dimension in the place of an axis that is made of several; the same for the same."""
        axis = find(axis)
        if axis.id not in self._whole:
            alone = Axis(axis.size)
            freeze(alone, "the steps of a scan")
            self._whole[axis.id] = self.span(alone)
        return self._whole[axis.id]


def places(span: Span, dim: int, size: Sizes) -> np.ndarray:
    """Where a dimension's coordinates stand in an axis: ``(occurrences, coordinates)``."""
    if not span.parts:
        return np.arange(size(dim))[None] if span.dim == dim else np.zeros((0, size(dim)), int)
    found, sizes = [], [part.now(size) for part in span.parts]
    for k, part in enumerate(span.parts):
        own = places(part, dim, size)
        if span.flattened:
            outer, inner = math.prod(sizes[:k]), math.prod(sizes[k + 1 :])
            before = np.arange(outer)[:, None, None, None] * (sizes[k] * inner)
            own = before + np.arange(inner)[:, None, None] + own * inner
            own = own.reshape(-1, own.shape[-1])
        else:
            own = own + sum(sizes[:k])
        found.append(own)
    return np.concatenate(found)


class Cut(NamedTuple):
    """Along which dimension an array is changed, and how.

    Attributes:
      dim: the dimension.
      beside: dimensions that it is repeated along; all are among the array's.
      size: sizes before the change.
      change: a function of arrays with the repeats in front and the dimension last.
    """

    dim: int
    beside: tuple[int, ...]
    size: Sizes
    change: Callable[[Array], Array]


def transform(array: Array, spans: Spans, cut: Cut, of: tuple[int, ...] | None = None) -> Array:
    """Changes an array along a dimension, wherever it stands; repeats keep their places.

    A dimension that stands on several axes (of a recurrent kernel) is changed along one after
    the other. Where a repeat does (heads on both axes of a kernel), it is the one on the
    dimension's own axis, else the next.

    Args:
      array: the array.
      spans: its axes.
      cut: the dimension, its repeats, and the change.
      of: by span, which axis it is a factor of; each is one by default.
    """
    of = tuple(range(len(spans))) if of is None else of
    at = next((n for n, span in enumerate(spans) if cut.dim in span.dims()), None)
    if at is None:
        return array
    if any(cut.dim in s.dims() for s in spans[at + 1 :]):
        return _one_by_one(array, spans, cut, of)
    if spans[at].parts:
        return (_in_product if spans[at].flattened else _in_sum)(array, spans, at, cut, of)
    wide = [n for n, s in enumerate(spans) if s.parts and set(cut.beside) & set(s.dims())]
    if wide:  # a repeat that was flattened with others
        return _in_product(array, spans, wide[0], cut, of)

    def apart(n: int) -> tuple[bool, int]:
        return of[n] != of[at], abs(n - at)

    front = [min((n for n, s in enumerate(spans) if s.dim == b), key=apart) for b in cut.beside]
    order = [*front, *(n for n in range(len(spans)) if n not in (*front, at)), at]
    return cut.change(array.transpose(order)).transpose(np.argsort(order).tolist())


def _one_by_one(array: Array, spans: Spans, cut: Cut, of: tuple[int, ...]) -> Array:
    """Changes along each of several axes, as if each were of a dimension of its own."""
    names = {n: -2 - n for n, span in enumerate(spans) if cut.dim in span.dims()}
    named = tuple(_renamed(s, cut.dim, names.get(n, cut.dim)) for n, s in enumerate(spans))
    new: dict[int, Any] = {}

    def size(dim: int) -> Any:
        return new[dim] if dim in new else cut.size(cut.dim if dim < -1 else dim)

    for name in names.values():
        found: list[Array] = []

        def change(part: Array, found: list[Array] = found) -> Array:
            found.append(cut.change(part))
            return found[-1]

        array = transform(array, named, Cut(name, cut.beside, size, change), of)
        new[name] = found[-1].shape[-1]
    return array


def _renamed(span: Span, dim: int, name: int) -> Span:
    """An axis with another number for a dimension."""
    if not span.parts:
        return span._replace(dim=name) if span.dim == dim else span
    return span._replace(parts=tuple(_renamed(part, dim, name) for part in span.parts))


def _in_product(array: Array, spans: Spans, at: int, cut: Cut, of: tuple[int, ...]) -> Array:
    """Factors an axis, changes along one of its factors, and flattens it again."""
    parts, shape = spans[at].parts, array.shape
    split = array.reshape(*shape[:at], *(p.now(cut.size) for p in parts), *shape[at + 1 :])
    whose = (*of[:at], *(of[at] for _ in parts), *of[at + 1 :])
    new = transform(split, (*spans[:at], *parts, *spans[at + 1 :]), cut, whose)
    behind = at + len(parts)
    return new.reshape(*new.shape[:at], math.prod(new.shape[at:behind]), *new.shape[behind:])


def _in_sum(array: Array, spans: Spans, at: int, cut: Cut, of: tuple[int, ...]) -> Array:
    """Cuts an axis into its parts, and changes those that the dimension is a part of."""
    done, start = [], 0
    for part in spans[at].parts:
        stop = start + part.now(cut.size)
        piece = array[(slice(None),) * at + (slice(start, stop),)]
        done.append(transform(piece, (*spans[:at], part, *spans[at + 1 :]), cut, of))
        start = stop
    return (np if isinstance(array, np.ndarray) else jnp).concatenate(done, axis=at)


def exposed(array: Array, spans: Spans, cut: Cut) -> Array:
    """Returns what stands along a dimension: ``(*repeats, samples, coordinates)``.

    Everything else is a sample: rows, places, and occurrences where it stands several times.
    """
    found: list[Array] = []

    def note(part: Array) -> Array:
        front = part.shape[: len(cut.beside)]
        samples = math.prod(part.shape[len(front) : -1])
        found.append(part.reshape(*front, samples, part.shape[-1]))
        return part

    transform(array, spans, cut._replace(change=note))
    return found[0] if len(found) == 1 else jnp.concatenate(found, axis=-2)
