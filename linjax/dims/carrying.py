"""Features that are carried on: what a layer reads, beside what it makes.

A way is a dimension that matrices make and matrices read. Beside a kernel that reads it may stand
rows for more (``W_residual``): for what the kernels that make it have read. A layer without any
leaf has vanished: it makes nothing, and carries on all that it reads. Kernels whose results are
added read different features, which are carried on one after another; kernels of the same
features (a gated layer's) carry them on once.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from linjax.dims import merging
from linjax.dims.layout import LAID_OUT, Layout, number, same_value
from linjax.dims.merging import Merge
from linjax.dims.sites import Product, features_of, products_of
from linjax.dims.span import Span
from linjax.dims.values import Role
from linjax.errors import StructureError
from linjax.program.flat import Op, Operand, Ref
from linjax.program.pytree import Path, beside, join

Array = Any


class Way(NamedTuple):
    """A dimension that matrices make and read.

    Attributes:
      dim: its number.
      makers: the products that make it, in order; of a sum, the first with a bias leads.
      sources: for each of them, which features it reads: numbers from zero.
      readers: the products that read it.
      merges: where what passes by it joins.
    """

    dim: int
    makers: tuple[Product, ...]
    sources: tuple[int, ...]
    readers: tuple[Product, ...]
    merges: tuple[Merge, ...]

    @property
    def carriers(self) -> tuple[Product, ...]:
        """For each of the features that are read, the first product that reads them."""
        count = max(self.sources) + 1
        return tuple(self.makers[self.sources.index(n)] for n in range(count))


def find_ways(layout: Layout, ops: dict[int, Op]) -> tuple[Way, ...]:
    """Finds the ways of a network, in the order in which they are made."""
    found = []
    for dim, marks in layout.marks.items():
        makers = tuple(products_of(layout, ops, marks, Role.MADE))
        readers = tuple(products_of(layout, ops, marks, Role.READ))
        if not makers or not readers or layout.reasons[dim]:
            continue
        if not all(_matrix(layout, ops, p) for p in (*makers, *readers)):
            continue
        if not all(_made(layout, p, dim) for p in makers):
            continue
        if not all(axis_of(layout, p.leaf, dim, read=True) is not None for p in readers):
            continue
        makers = _ordered(layout, dim, makers)
        sources = _sources(layout, ops, makers)
        by_op = dict(zip((p.op for p in makers), sources, strict=True))
        merges = merging.around(layout, dim, by_op)
        if merges is not None:
            found.append(Way(dim, makers, sources, readers, merges))
    return tuple(sorted(found, key=lambda way: way.makers[0].op))


def _matrix(layout: Layout, ops: dict[int, Op], product: Product) -> bool:
    """Whether a product's kernel is a leaf, a matrix, and stands in no loop."""
    op = ops[product.op]
    if product.leaf is None or op.name != "dot_general" or layout.steps[product.op]:
        return False
    return len(layout.leaves[product.leaf]) == 2 and not op.params["dimension_numbers"][1][0]


def _made(layout: Layout, product: Product, dim: int) -> bool:
    """Whether a kernel makes a dimension, once or in several runs, and nothing else."""
    if axis_of(layout, product.leaf, dim, read=False) is None:
        return False
    spans = (*layout.leaves[product.leaf or 0], *layout.values[product.op].spans)
    return all(runs(span, dim) for span in spans if dim in span.dims())


def runs(span: Span, dim: int) -> int:
    """In how many runs of coordinates an axis has a dimension and nothing else; 0 if it hasn't."""
    if span.dim == dim:
        return 1
    if span.flattened:
        *outer, last = span.parts
        return runs(last, dim) * math.prod(part.size for part in outer)
    own = [runs(part, dim) for part in span.parts]
    return sum(own) if all(own) else 0


def axis_of(layout: Layout, leaf: int | None, dim: int, read: bool) -> int | None:
    """The axis of a leaf along which its kernel reads, or makes, a dimension."""
    if leaf is None:
        return None
    own = layout.values[layout.program.inputs[leaf].id].read
    for n, span in enumerate(layout.leaves[leaf]):
        if dim in span.dims() and (dim in own) == read and (span.dim == dim or not read):
            return n
    return None


def _ordered(layout: Layout, dim: int, makers: tuple[Product, ...]) -> tuple[Product, ...]:
    """Products in order; those whose results are added as chains of layers count them."""
    makers = tuple(sorted(makers, key=lambda product: product.op))
    lists: dict[int, list[int]] = {product.op: [n] for n, product in enumerate(makers)}
    biased = set[int]()
    longest = list[int]()
    for op in layout.users[dim]:
        met = [lists[o.id] for o in op.inputs if isinstance(o, Ref) and o.id in lists]
        if len(met) == 1 and op.name in LAID_OUT:
            lists[number(op)] = met[0]
        elif op.name in ("add", "add_any") and len(met) == len(op.inputs):
            met.sort(key=lambda own: own[0])
            lead = next((own[0] for own in met if own[0] in biased), met[0][0])
            lists[number(op)] = [lead, *(n for own in met for n in own if n != lead)]
            longest = max(longest, lists[number(op)], key=len)
        elif op.name == "add" and len(met) == 1:
            other = next(o for o in op.inputs if not (isinstance(o, Ref) and o.id in lists))
            if isinstance(other, Ref) and layout.values[other.id].leaf is not None:
                lists[number(op)] = met[0]
                biased.add(met[0][0])
    rest = (n for n in range(len(makers)) if n not in longest)
    return tuple(makers[n] for n in (*longest, *rest))


def _sources(layout: Layout, ops: dict[int, Op], makers: tuple[Product, ...]) -> tuple[int, ...]:
    """Numbers the different features that products read."""
    known: list[Operand] = []
    found = []
    for product in makers:
        operand = ops[product.op].inputs[product.data]
        same = (n for n, other in enumerate(known) if same_value(layout, operand, other))
        at = next(same, len(known))
        if at == len(known):
            known.append(operand)
        found.append(at)
    return tuple(found)


class Beside(NamedTuple):
    """What passes by a way.

    Attributes:
      linear: linear coordinates.
      carried: features that are carried on, for each of a way's sources.
    """

    linear: int
    carried: tuple[int, ...]

    @property
    def all(self) -> int:
        """Coordinates of both kinds."""
        return self.linear + sum(self.carried)


class Shapes:
    """What the shapes of a pytree's leaves say about its ways.

    Args:
      layout: the network's dimensions.
      ways: its ways.
      paths: of its leaves.
      flat: parameters by path.
      kept: by dimension, coordinates with everything on their way.
      linear: by dimension, linear coordinates.
    """

    def __init__(
        self, layout: Layout, ways: tuple[Way, ...], paths: tuple[Path, ...],
        flat: Mapping[Path, Array], kept: Mapping[int, int], linear: Mapping[int, int],
    ) -> None:  # fmt: skip
        self.layout, self.paths, self.flat = layout, paths, flat
        self.own = frozenset(paths)
        self.ways = {way.dim: way for way in ways}
        self.kept, self.linear = kept, linear
        self.totals: dict[int, int] = {}

    def beside(self) -> dict[int, Beside]:
        """Works out what passes by every way, and checks it.

        Raises:
          StructureError: naming a leaf whose shape doesn't fit.
        """
        found = {}
        for dim, way in self.ways.items():
            linear = self.linear.get(dim, 0)
            carried = (0,) * len(way.carriers)
            if self.total(dim) != self.kept[dim] + linear:
                carried = tuple(map(self._reads, way.carriers))
            own = Beside(linear, carried)
            self._check(way, self.kept[dim] + own.all)
            if own.all:
                found[dim] = own
        return found

    def total(self, dim: int) -> int:
        """How many coordinates a dimension has with those that pass by it."""
        way = self.ways.get(dim)
        if way is None:
            return self.kept[dim] + self.linear.get(dim, 0)
        if dim not in self.totals:
            rows = (self._rows(p) for p in way.readers)
            told = next((n for n in rows if n is not None), None)
            least = self.kept[dim] + self.linear.get(dim, 0)
            self.totals[dim] = least if told is None else told
        return self.totals[dim]

    def _leaf(self, product: Product, kind: str = "") -> Array | None:
        return self.flat.get(self._path(product, kind))

    def _path(self, product: Product, kind: str) -> Path:
        path = self.paths[product.leaf or 0]
        return beside(path, kind, self.own) if kind else path

    def _size(self, product: Product, kind: str = "") -> int:
        """How many features a leaf beside a kernel reads, 0 without it."""
        leaf = self._leaf(product, kind)
        return 0 if leaf is None else jnp.shape(leaf)[self._axis(product)]

    def _axis(self, product: Product) -> int:
        return self.layout.values[self.layout.program.inputs[product.leaf or 0].id].read_axis

    def _rows(self, product: Product) -> int | None:
        """How many features a product reads, None where its leaves don't say."""
        for kinds in (("down",), ("", "residual"), ("linear",)):
            if self._leaf(product, kinds[0]) is not None:
                return sum(self._size(product, kind) for kind in kinds)
        made = self.layout.leaves[product.leaf or 0][1 - self._axis(product)].dims()
        beyond = self.ways.get(made[0])
        if beyond is None or self.kept[made[0]] or max(beyond.sources):
            return None  # constant
        return self.total(made[0])

    def _reads(self, product: Product) -> int:
        """How many features a product hands on where they are carried on."""
        down = self._leaf(product, "down")
        if down is not None:
            return int(jnp.shape(down)[1 - self._axis(product)])
        return int(features_of(self.layout, product)[0].now(self.total))

    def _check(self, way: Way, total: int) -> None:
        """Checks the rows of all kernels that read a way."""
        for product in way.readers:
            rows = self._rows(product)
            if rows is None or (rows == total and self.total(way.dim) == total):
                continue
            axis = self._axis(product)
            for kind in ("down", "", "linear"):
                leaf = self._leaf(product, kind)
                if leaf is None:
                    continue
                own = join(self._path(product, kind))
                plain = self.kept[way.dim] + self.linear.get(way.dim, 0)
                less = 0 if kind else self._size(product, "residual")
                want = " or ".join(str(n - less) for n in sorted({plain, total}) if n >= less)
                size = jnp.shape(leaf)[axis]
                raise StructureError(f"{own}, axis {axis}: {size} entries, expected {want}")
            if not rows:
                continue  # nothing of what it hands on is read, either: a block that is gone
            raise StructureError(
                f"{join(self._path(product, ''))}: missing, and what stands around it doesn't fit: "
                f"{total} features arrive there, {rows} are read of what it hands on"
            )
