"""Streams that norms run over: which of them may change their basis, and what stands behind norms.

A norm ``γ (x − mean x) / sqrt(mean (x − mean x)² + ε) + β`` turns with an orthonormal basis of x
but for γ and β, which kernels behind it can take over. Every value along such a dimension is
followed from what makes it to the kernels that read it; whatever else meets it is a reason to
leave it alone.
"""

import enum
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.layout import Held, Layout, number
from linjax.dims.values import Source
from linjax.program.flat import Const, Op, Operand, Ref


class Read(NamedTuple):
    """What is read at a point: ``γ n + w β`` of a normalised n, or the stream itself.

    Attributes:
      scales: leaves whose product γ is.
      shifts: leaves β that are added, each with its factor w.
      normed: whether a norm stands before it.
      tied: whether a kernel that reads it makes the coordinates, too.
    """

    scales: tuple[int, ...] = ()
    shifts: tuple[tuple[int, float], ...] = ()
    normed: bool = False
    tied: bool = False


class Norms(NamedTuple):
    """What a stream is read through.

    Attributes:
      reads: by point of its site.
      centred: whether the coordinates' mean is subtracted everywhere (LayerNorm).
    """

    reads: tuple[Read, ...]
    centred: bool

    @property
    def beside(self) -> frozenset[int]:
        """The leaves of the norms, which kernels take over."""
        scales = (leaf for read in self.reads for leaf in read.scales)
        return frozenset((*scales, *(leaf for read in self.reads for leaf, _ in read.shifts)))


class _Kind(enum.Enum):
    STREAM = "the stream"
    VECTOR = "normalised, centred or scaled coordinates"
    SQUARE = "squares of coordinates"
    GAIN = "a norm's factors"
    SUM = "their sum"
    ENERGY = "their sum of squares"
    SQUARED = "the square of their sum"
    NUMBER = "a function of their sum of squares"
    LEAF = "a leaf"


class _Known(NamedTuple):
    """What a value is.

    Attributes:
      kind: what it is, up to a factor that is the same for all coordinates.
      weight: that factor, of sums and of what is added behind norms.
      centred: whether a mean has been subtracted.
      seen: whether that can be told from it: it would change with what is added to all coordinates.
      read: what is read if a kernel reads it.
      leaf: number of the leaf that it shows.
      of: the value of the stream that it is, or is a sum of.
    """

    kind: _Kind
    weight: float = 1.0
    centred: bool = False
    seen: bool = False
    read: Read = Read()
    leaf: int = -1
    of: int = -1


class Stuck(Exception):
    """Why a stream can't change its basis."""


AFTER = "a norm's result goes on in what it runs over, as where norms follow sums"
SCANNED = "a norm runs over it in a scan"
VECTORS = (_Kind.STREAM, _Kind.VECTOR)
_LAID_OUT = frozenset(
    [
        "broadcast_in_dim",
        "reshape",
        "transpose",
        "squeeze",
        "copy",
        "copy_p",
        "stop_gradient",
        "name",
        "optimization_barrier",
        "convert_element_type",
        "slice",
        "dynamic_slice",
        "gather",
        "rev",
        "expand_dims",
    ]
)
_SAME = _LAID_OUT - {"slice", "dynamic_slice", "gather", "rev"}
_SUMS = (_Kind.SUM, _Kind.SQUARED)
_NUMBERS = frozenset(
    [
        "add",
        "sub",
        "mul",
        "div",
        "max",
        "min",
        "rsqrt",
        "sqrt",
        "pow",
        "integer_pow",
        "square",
        "log",
        "exp",
        "neg",
        "abs",
        "select_n",
        "add_any",
    ]
)


def norms_of(
    layout: Layout, dim: int, makers: Sequence[Any], readers: Sequence[Any], points: Sequence[int]
) -> Norms | str:
    """What a stream is read through, or why it can't change its basis.

    Args:
      layout: the network's dimensions.
      dim: the stream's.
      makers: the products that make it.
      readers: the products that read it.
      points: numbers of the values that they read.
    """
    try:
        return _Walk(layout, dim).norms(makers, readers, points)
    except Stuck as reason:
        return str(reason)


class _Walk:
    """Follows all values along a dimension, in the order of execution."""

    def __init__(self, layout: Layout, dim: int) -> None:
        self.layout, self.dim, self.size = layout, dim, layout.traced[dim]
        self.known: dict[int, _Known] = {}
        self.added: set[int] = set()
        self.summed = False

    def norms(self, makers: Sequence[Any], readers: Sequence[Any], points: Sequence[int]) -> Norms:
        """Checks everything that meets the stream."""
        layout, leaves = self.layout, set[int]()
        for leaf, spans in enumerate(layout.leaves):
            if any(self.dim in s.dims() for s in spans):
                leaves.add(leaf)
                self.axis(layout.values[self.ref(leaf)])
                self.known[self.ref(leaf)] = _Known(_Kind.LEAF, leaf=leaf)
        for op in layout.program.ops:
            self.step(op)
        made, read = {m.leaf for m in makers}, {r.leaf for r in readers}
        if None in made | read:
            raise Stuck("a computed kernel makes or reads what a norm runs over")
        reads = tuple(self.at(point, made, readers) for point in points)
        found = Norms(reads, self.summed)
        for operand in layout.program.outputs:
            known = self.known.get(operand.id) if isinstance(operand, Ref) else None
            if known is not None and (known.kind in _SUMS or (self.summed and known.seen)):
                raise Stuck("a sum over it is given as an output")
        if any(
            math.prod(layout.program.avals[self.ref(n)].shape) != self.size for n in found.beside
        ):
            raise Stuck("a norm has other scales for other places")
        mixed = found.beside & (made | read | self.added)
        if leaves - made - read - self.added - found.beside or mixed:
            raise Stuck("parameters meet it as no kernel, bias or scale of a norm does")
        self.check(found, readers)
        return found

    def ref(self, leaf: int) -> int:
        """The number of a leaf's value."""
        return self.layout.program.inputs[leaf].id

    def at(self, point: int, made: set[Any], readers: Sequence[Any]) -> Read:
        """What is read at a point."""
        known = self.known.get(point)
        if known is None or known.kind not in VECTORS:
            raise Stuck("what is read of it isn't a norm's result")
        if self.summed and (not known.centred or known.seen or not known.read.normed):
            raise Stuck("its mean is subtracted in some places, and read in others")
        makers = self.layout.makers
        own = [r for r in readers if getattr(makers[r.op].inputs[r.data], "id", -1) == point]
        return known.read._replace(tied=any(r.leaf in made for r in own))

    def check(self, found: Norms, readers: Sequence[Any]) -> None:
        """Checks what can't be said of one point alone."""
        makers, at = self.layout.makers, dict[int, set[int]]()
        for reader in readers:
            at.setdefault(reader.leaf, set()).add(makers[reader.op].inputs[reader.data].id)
        if any(len(own) > 1 for own in at.values()):
            raise Stuck("one kernel reads it through several norms")
        tied = [read for read in found.reads if read.tied]
        elsewhere = [leaf for read in found.reads if not read.tied for leaf in read.scales]
        if len(tied) > 1 or any(set(read.scales) & set(elsewhere) for read in tied):
            raise Stuck("a kernel that makes it reads it through several norms")
        for read in tied:
            if len(read.scales) > 1 or (read.scales and found.centred):
                raise Stuck("a kernel that makes it reads it through a LayerNorm with a scale")

    def axis(self, held: Held) -> int:
        """The axis along which a value has the dimension."""
        own = [n for n, span in enumerate(held.spans) if self.dim in span.dims()]
        if len(own) != 1 or held.spans[own[0]].dim != self.dim:
            raise Stuck("a norm runs over what is cut or flattened with others")
        return own[0]

    def of(self, op: Op, place: int) -> _Known | None:
        """What is known of an operand."""
        operand = op.inputs[place]
        return self.known.get(operand.id) if isinstance(operand, Ref) else None

    def along(self, op: Op, place: int) -> bool:
        """Whether an operand's entries differ along the dimension."""
        held = self.layout.operand(op, place)
        pairs = zip(held.spans, held.varies, strict=True)
        return any(varies and self.dim in span.dims() for span, varies in pairs)

    def step(self, op: Op) -> None:
        """Says what an operation makes of what is known."""
        met = [self.of(op, place) for place in range(len(op.inputs))]
        out = self.layout.values[number(op)]
        differs = any(self.along(op, place) for place in range(len(op.inputs)))
        if not any(met) and not differs and self.dim not in out.dims():
            return
        if op.scan is not None:
            raise Stuck(SCANNED)
        if out.source is not Source.DATA:
            if met[0] is None or op.name not in _LAID_OUT:
                raise Stuck(f"{op.name} computes parameters that meet it")
            self.known[number(op)] = met[0]
            return
        if len(op.outputs) > 1:
            if op.name != "split" or not any(m and m.kind in VECTORS for m in met):
                raise Stuck(f"{op.name} stands between it and its kernels")
            for ref in op.outputs:
                if self.dim not in self.layout.values[ref.id].dims():
                    raise Stuck("a norm runs over what is cut or flattened with others")
                self.known[ref.id] = self.of(op, 0)._replace(of=ref.id)
            return
        if not any(met):
            raise Stuck("constants or data tell its coordinates apart")
        found = self.result(op, met)
        if found is None:
            raise Stuck(f"{op.name} stands between it and its kernels")
        if found.kind is _Kind.STREAM and op.name not in _SAME:
            found = found._replace(of=number(op))
        if found.kind in (*VECTORS, _Kind.SQUARE, _Kind.GAIN) and self.dim in out.dims():
            self.axis(out)
        if self.dim in out.dims() or found.kind not in VECTORS:
            self.known[number(op)] = found

    def result(self, op: Op, met: list[_Known | None]) -> _Known | None:
        """What an operation's result is; None where that isn't known."""
        if op.name in ("dot_general", "conv_general_dilated"):
            return self.product(op, met)
        if op.name == "reduce_sum":
            return self.reduced(op, met[0])
        if op.name == "gather" and met[0] is not None and met[0].kind is _Kind.LEAF:
            return _Known(_Kind.STREAM)
        if op.name in _LAID_OUT and met[0] is not None:
            return met[0]
        if op.name == "concatenate":
            return self.joined(op, met)
        if op.name in ("square", "integer_pow"):
            twice = op.name == "square" or op.params["y"] == 2
            if twice and met[0] is not None and met[0].kind in (*VECTORS, _Kind.SUM):
                return self.times(op, met[0], met[0])
        if op.name in ("add", "sub", "add_any"):
            return self.sum(op, met)
        if op.name == "mul":
            one, other = met
            if one is not None and other is not None:
                return self.times(op, one, other)
            return self.scaled(op, 1 if one is None else 0, inverse=False)
        if op.name == "div":
            return self.divided(op, met)
        if op.name == "neg" and met[0] is not None and met[0].kind is not _Kind.NUMBER:
            return (
                met[0]._replace(weight=-met[0].weight)
                if met[0].kind is _Kind.SUM
                else (met[0] if met[0].kind is _Kind.STREAM else None)
            )
        if op.name == "select_n" and any(m and m.kind in VECTORS for m in met):
            return self.chosen(op, met)
        return self.number(op, met)

    def product(self, op: Op, met: list[_Known | None]) -> _Known | None:
        """A kernel makes it or reads it, or it is mixed along other axes."""
        out, product = self.layout.values[number(op)], op.name == "dot_general"
        leaf = [k for k, m in enumerate(met) if m is not None and m.kind is _Kind.LEAF]
        data = [k for k, m in enumerate(met) if m is not None and m.kind is not _Kind.LEAF]
        if any(met[k].kind not in VECTORS for k in data):
            return None
        if product and data:
            (contract, batch) = op.params["dimension_numbers"]
            for k in data:
                at = self.axis(self.layout.operand(op, k))
                if at in batch[k]:
                    return None
                if at in contract[k]:
                    if len(leaf) != 1 or len(data) != 1:
                        raise Stuck("a product without parameters reads it")
                    return _Known(_Kind.STREAM)  # read; what it makes may be the stream again
            if leaf or len(data) > 1 or met[data[0]].read.shifts:
                return None
            return met[data[0]]._replace(weight=1.0)  # mixed along other axes
        if data and (not leaf or self.dim in out.dims()):
            return None
        return _Known(_Kind.STREAM) if leaf or self.dim not in out.dims() else None

    def reduced(self, op: Op, known: _Known | None) -> _Known | None:
        """A sum over coordinates, or over other axes."""
        if known is None:
            return None
        held = self.layout.operand(op, 0)
        if self.dim not in held.dims():
            return known if known.kind is _Kind.NUMBER else None
        if known.kind not in (*VECTORS, _Kind.SQUARE):
            return None
        axes, own = op.params["axes"], self.axis(held)
        if own not in axes:
            times = float(math.prod(held.spans[n].size for n in axes))
            return self.weighed(known, times) if known.kind in VECTORS else None
        if len(axes) > 1:
            return None
        if known.kind is _Kind.SQUARE:
            if known.centred:
                return _Known(_Kind.NUMBER, seen=known.seen)
            return _Known(_Kind.ENERGY, weight=known.weight, of=known.of)
        if known.kind is not _Kind.STREAM:
            raise Stuck("what norms make of it is summed up")
        self.summed = True
        return _Known(_Kind.SUM, of=known.of)

    def weighed(self, known: _Known, times: float) -> _Known:
        """The same times a number."""
        shifts = tuple((leaf, w * times) for leaf, w in known.read.shifts)
        return known._replace(weight=known.weight * times, read=known.read._replace(shifts=shifts))

    def joined(self, op: Op, met: list[_Known | None]) -> _Known | None:
        """Side by side along another axis, as a token of a class stands beside others."""
        if self.dim not in self.layout.values[number(op)].dims():
            return None
        for own in met:
            if own is not None and own.kind is _Kind.LEAF:
                self.added.add(own.leaf)
            elif own is None or own.kind is not _Kind.STREAM:
                return None
        return _Known(_Kind.STREAM)

    def sum(self, op: Op, met: list[_Known | None]) -> _Known | None:
        """Added up: streams, a stream and its mean, a norm's result and its shift."""
        sign = -1.0 if op.name == "sub" else 1.0
        one, other = met
        if one is not None and other is not None and _Kind.LEAF in (one.kind, other.kind):
            leaf, known = (one, other) if one.kind is _Kind.LEAF else (other, one)
            return self.with_shift(known, leaf.leaf, sign, leaf is other)
        if one is None or other is None:
            known, place = (one, 1) if other is None else (other, 0)
            zero = self.constant(op.inputs[place]) == 0.0
            if known.kind is _Kind.STREAM and self.along(op, place):
                raise Stuck("a constant is added that tells its coordinates apart")
            return known if zero and known.kind in VECTORS else self.number(op, met)
        kinds = (one.kind, other.kind)
        if kinds == (_Kind.STREAM, _Kind.STREAM):
            return one
        same = one.of == other.of
        if (
            kinds == (_Kind.STREAM, _Kind.SUM)
            and same
            and math.isclose(-sign * other.weight * self.size, 1.0, rel_tol=1e-5)
        ):
            return one._replace(kind=_Kind.VECTOR, centred=True)
        if all(k in VECTORS for k in kinds):
            raise Stuck(AFTER)
        if (
            kinds == (_Kind.ENERGY, _Kind.SQUARED)
            and same
            and math.isclose(-sign * other.weight * self.size, one.weight, rel_tol=1e-5)
        ):
            return _Known(_Kind.NUMBER)
        return self.number(op, met)

    def with_shift(self, known: _Known, leaf: int, sign: float, last: bool) -> _Known | None:
        """With a leaf added that has a summand for each coordinate."""
        if sign < 0 and not last:
            return None
        if known.kind is _Kind.STREAM:
            self.added.add(leaf)
            return known
        if known.kind is not _Kind.VECTOR:
            return None
        shifts = (*known.read.shifts, (leaf, sign))
        return known._replace(read=known.read._replace(shifts=shifts))

    def times(self, op: Op, one: _Known, other: _Known) -> _Known | None:
        """The product of two values that are known."""
        kinds = {one.kind, other.kind}
        if kinds <= set(VECTORS):
            plain = one == other and one.read == Read()
            if not plain:
                return None
            return _Known(_Kind.SQUARE, 1.0, one.centred, one.seen, of=one.of)
        if kinds == {_Kind.SUM}:
            same = one.of == other.of
            weight = one.weight * other.weight
            return _Known(_Kind.SQUARED, weight=weight, of=one.of) if same else None
        if _Kind.LEAF in kinds:
            leaf, known = (one, other) if one.kind is _Kind.LEAF else (other, one)
            return self.with_scale(known, leaf.leaf)
        vector = next((k for k in (one, other) if k.kind in VECTORS), None)
        if vector is not None:
            factor = other if vector is one else one
            factors = (_Kind.NUMBER, _Kind.GAIN, _Kind.ENERGY)
            return self.normed(vector, factor) if factor.kind in factors else None
        return self.number(op, [one, other])

    def with_scale(self, known: _Known, leaf: int) -> _Known | None:
        """Times a leaf that has a factor for each coordinate."""
        if known.kind is _Kind.ENERGY:
            known = _Known(_Kind.NUMBER, seen=True)
        if known.kind not in (*VECTORS, _Kind.NUMBER, _Kind.GAIN) or known.read.shifts:
            return None
        kind = _Kind.VECTOR if known.kind in VECTORS else _Kind.GAIN
        scales = (*known.read.scales, leaf)
        return known._replace(kind=kind, read=known.read._replace(scales=scales))

    def normed(self, vector: _Known, factor: _Known) -> _Known | None:
        """A vector times what a norm makes of it."""
        if vector.read.shifts:
            return None
        seen = vector.seen or factor.seen or factor.kind is _Kind.ENERGY
        scales = (*vector.read.scales, *factor.read.scales)
        return vector._replace(kind=_Kind.VECTOR, seen=seen, read=Read(scales, (), True))

    def scaled(self, op: Op, place: int, inverse: bool) -> _Known | None:
        """A known value times another that is the same for all coordinates."""
        known, factor = self.of(op, place), self.constant(op.inputs[1 - place])
        assert known is not None
        if self.along(op, 1 - place):
            raise Stuck("constants or data tell its coordinates apart")
        if known.kind in (_Kind.NUMBER, _Kind.GAIN):
            return known
        if known.kind in (_Kind.STREAM, _Kind.VECTOR) and factor is None:
            return None if known.read.shifts else known
        if factor is None or not factor:
            return None
        times = 1.0 / factor if inverse else factor
        return self.weighed(known, times) if known.kind is not _Kind.LEAF else None

    def divided(self, op: Op, met: list[_Known | None]) -> _Known | None:
        one, other = met
        if other is None:
            return self.scaled(op, 0, inverse=True)
        if other.kind is _Kind.ENERGY:
            other = _Known(_Kind.NUMBER, seen=True)
        if other.kind is not _Kind.NUMBER:
            return None
        if one is None:
            return None if self.along(op, 0) else other
        if one.kind is _Kind.NUMBER:
            return one._replace(seen=one.seen or other.seen)
        if one.kind is _Kind.LEAF:
            return _Known(_Kind.GAIN, seen=other.seen, read=Read((one.leaf,)))
        return self.normed(one, other) if one.kind in VECTORS else None

    def chosen(self, op: Op, met: list[_Known | None]) -> _Known | None:
        """Some places of it, others being zero."""
        if self.along(op, 0):
            return None
        for place, own in list(enumerate(met))[1:]:
            if own is None and self.constant(op.inputs[place]) != 0.0:
                return None
            if own is not None and own.kind is not _Kind.STREAM:
                return None
        return _Known(_Kind.STREAM)

    def number(self, op: Op, met: list[_Known | None]) -> _Known | None:
        """A function of norms alone."""
        own = [m for m in met if m is not None]
        if not own or any(m.kind not in (_Kind.NUMBER, _Kind.ENERGY) for m in own):
            return None
        if op.name not in _NUMBERS | _LAID_OUT:
            return None
        if any(self.along(op, place) for place in range(len(op.inputs))):
            return None
        return _Known(_Kind.NUMBER, seen=any(m.seen or m.kind is _Kind.ENERGY for m in own))

    def constant(self, operand: Operand) -> float | None:
        """The one number that a constant is, None where it is none."""
        makers = self.layout.makers
        while isinstance(operand, Ref) and operand.id in makers:
            if makers[operand.id].name not in ("broadcast_in_dim", "reshape"):
                return None
            operand = makers[operand.id].inputs[0]
        if not isinstance(operand, Const):
            return None
        value = np.asarray(operand.value)
        if not value.size or (
            not jnp.issubdtype(value.dtype, np.floating) and value.dtype.kind not in "iu"
        ):
            return None
        value = value.astype(np.float64)
        return float(value.flat[0]) if (value == value.flat[0]).all() else None
