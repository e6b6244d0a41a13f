"""What operations make of a stream that norms run over, and of norms: one by one."""

import math

from linjax.dims.layout import Held, Layout, constant, number
from linjax.dims.norm_values import Kind, Known, Read, Stuck
from linjax.program.flat import Op, Ref

AFTER = "a norm's result goes on in what it runs over, as where norms follow sums"
SCANNED = "a norm runs over it in a scan"
VECTORS = (Kind.STREAM, Kind.VECTOR)
LAID_OUT = frozenset((
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "copy", "copy_p", "stop_gradient",
    "name", "optimization_barrier", "convert_element_type", "slice", "dynamic_slice", "gather",
    "rev", "expand_dims",
))  # fmt: skip
SAME = LAID_OUT - {"slice", "dynamic_slice", "gather", "rev"}
SUMS = (Kind.SUM, Kind.SQUARED)
NUMBERS = frozenset((
    "add", "sub", "mul", "div", "max", "min", "rsqrt", "sqrt", "pow", "integer_pow", "square",
    "log", "exp", "neg", "abs", "select_n", "add_any",
))  # fmt: skip


class Steps:
    """What is known of values along a dimension, and the rules by which more is.

    Attributes:
      known: by value.
      added: leaves that are added to the stream as they are.
      summed: whether coordinates are summed up, to subtract their mean.
    """

    def __init__(self, layout: Layout, dim: int) -> None:
        self.layout, self.dim, self.size = layout, dim, layout.traced[dim]
        self.known: dict[int, Known] = {}
        self.added: set[int] = set()
        self.summed = False

    def axis(self, held: Held) -> int:
        """The axis along which a value has the dimension."""
        own = [n for n, span in enumerate(held.spans) if self.dim in span.dims()]
        if len(own) != 1 or held.spans[own[0]].dim != self.dim:
            raise Stuck("a norm runs over what is cut or flattened with others")
        return own[0]

    def of(self, op: Op, place: int) -> Known | None:
        """What is known of an operand."""
        operand = op.inputs[place]
        return self.known.get(operand.id) if isinstance(operand, Ref) else None

    def along(self, op: Op, place: int) -> bool:
        """Whether an operand's entries differ along the dimension."""
        held = self.layout.operand(op, place)
        pairs = zip(held.spans, held.varies, strict=True)
        return any(varies and self.dim in span.dims() for span, varies in pairs)

    def product(self, op: Op, met: list[Known | None]) -> Known | None:
        """A kernel makes it or reads it, or it is mixed along other axes."""
        out, product = self.layout.values[number(op)], op.name == "dot_general"
        leaf = [k for k, m in enumerate(met) if m is not None and m.kind is Kind.LEAF]
        data = [k for k, m in enumerate(met) if m is not None and m.kind is not Kind.LEAF]
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
                    return Known(Kind.STREAM)  # read; what it makes may be the stream again
            if leaf or len(data) > 1 or met[data[0]].read.shifts:
                return None
            return met[data[0]]._replace(weight=1.0)  # mixed along other axes
        if data and (not leaf or self.dim in out.dims()):
            return None
        return Known(Kind.STREAM) if leaf or self.dim not in out.dims() else None

    def reduced(self, op: Op, known: Known | None) -> Known | None:
        """A sum over coordinates, or over other axes."""
        if known is None:
            return None
        held = self.layout.operand(op, 0)
        if self.dim not in held.dims():
            return known if known.kind is Kind.NUMBER else None
        if known.kind not in (*VECTORS, Kind.SQUARE):
            return None
        axes, own = op.params["axes"], self.axis(held)
        if own not in axes:
            times = float(math.prod(held.spans[n].size for n in axes))
            return self.weighed(known, times) if known.kind in VECTORS else None
        if len(axes) > 1:
            return None
        if known.kind is Kind.SQUARE:
            if known.centred:
                return Known(Kind.NUMBER, seen=known.seen)
            return Known(Kind.ENERGY, weight=known.weight, of=known.of)
        if known.kind is not Kind.STREAM:
            raise Stuck("what norms make of it is summed up")
        self.summed = True
        return Known(Kind.SUM, of=known.of)

    def weighed(self, known: Known, times: float) -> Known:
        """The same times a number."""
        shifts = tuple((leaf, w * times) for leaf, w in known.read.shifts)
        return known._replace(weight=known.weight * times, read=known.read._replace(shifts=shifts))

    def joined(self, op: Op, met: list[Known | None]) -> Known | None:
        """Side by side along another axis, as a token of a class stands beside others."""
        if self.dim not in self.layout.values[number(op)].dims():
            return None
        for own in met:
            if own is not None and own.kind is Kind.LEAF:
                self.added.add(own.leaf)
            elif own is None or own.kind is not Kind.STREAM:
                return None
        return Known(Kind.STREAM)

    def sum(self, op: Op, met: list[Known | None]) -> Known | None:
        """Added up: streams, a stream and its mean, a norm's result and its shift."""
        sign = -1.0 if op.name == "sub" else 1.0
        one, other = met
        if one is not None and other is not None and Kind.LEAF in (one.kind, other.kind):
            leaf, known = (one, other) if one.kind is Kind.LEAF else (other, one)
            return self.with_shift(known, leaf.leaf, sign, leaf is other)
        if one is None or other is None:
            known, place = (one, 1) if other is None else (other, 0)
            zero = constant(self.layout, op.inputs[place]) == 0.0
            if known.kind is Kind.STREAM and self.along(op, place):
                raise Stuck("a constant is added that tells its coordinates apart")
            return known if zero and known.kind in VECTORS else self.number(op, met)
        kinds = (one.kind, other.kind)
        if kinds == (Kind.STREAM, Kind.STREAM):
            return one
        same = one.of == other.of
        if (
            kinds == (Kind.STREAM, Kind.SUM)
            and same
            and math.isclose(-sign * other.weight * self.size, 1.0, rel_tol=1e-5)
        ):
            return one._replace(kind=Kind.VECTOR, centred=True)
        if all(k in VECTORS for k in kinds):
            raise Stuck(AFTER)
        if (
            kinds == (Kind.ENERGY, Kind.SQUARED)
            and same
            and math.isclose(-sign * other.weight * self.size, one.weight, rel_tol=1e-5)
        ):
            return Known(Kind.NUMBER)
        return self.number(op, met)

    def with_shift(self, known: Known, leaf: int, sign: float, last: bool) -> Known | None:
        """With a leaf added that has a summand for each coordinate."""
        if sign < 0 and not last:
            return None
        if known.kind is Kind.STREAM:
            self.added.add(leaf)
            return known
        if known.kind is not Kind.VECTOR:
            return None
        shifts = (*known.read.shifts, (leaf, sign))
        return known._replace(read=known.read._replace(shifts=shifts))

    def times(self, op: Op, one: Known, other: Known) -> Known | None:
        """The product of two values that are known."""
        kinds = {one.kind, other.kind}
        if kinds <= set(VECTORS):
            plain = one == other and one.read == Read()
            if not plain:
                return None
            return Known(Kind.SQUARE, 1.0, one.centred, one.seen, of=one.of)
        if kinds == {Kind.SUM}:
            same = one.of == other.of
            weight = one.weight * other.weight
            return Known(Kind.SQUARED, weight=weight, of=one.of) if same else None
        if Kind.LEAF in kinds:
            leaf, known = (one, other) if one.kind is Kind.LEAF else (other, one)
            return self.with_scale(known, leaf.leaf)
        vector = next((k for k in (one, other) if k.kind in VECTORS), None)
        if vector is not None:
            factor = other if vector is one else one
            factors = (Kind.NUMBER, Kind.GAIN, Kind.ENERGY)
            return self.normed(vector, factor) if factor.kind in factors else None
        return self.number(op, [one, other])

    def with_scale(self, known: Known, leaf: int) -> Known | None:
        """Times a leaf that has a factor for each coordinate."""
        if known.kind is Kind.ENERGY:
            known = Known(Kind.NUMBER, seen=True)
        if known.kind not in (*VECTORS, Kind.NUMBER, Kind.GAIN) or known.read.shifts:
            return None
        kind = Kind.VECTOR if known.kind in VECTORS else Kind.GAIN
        scales = (*known.read.scales, leaf)
        return known._replace(kind=kind, read=known.read._replace(scales=scales))

    def normed(self, vector: Known, factor: Known) -> Known | None:
        """A vector times what a norm makes of it."""
        if vector.read.shifts:
            return None
        seen = vector.seen or factor.seen or factor.kind is Kind.ENERGY
        scales = (*vector.read.scales, *factor.read.scales)
        return vector._replace(kind=Kind.VECTOR, seen=seen, read=Read(scales, (), True))

    def scaled(self, op: Op, place: int, inverse: bool) -> Known | None:
        """A known value times another that is the same for all coordinates."""
        known, factor = self.of(op, place), constant(self.layout, op.inputs[1 - place])
        assert known is not None
        if self.along(op, 1 - place):
            raise Stuck("constants or data tell its coordinates apart")
        if known.kind in (Kind.NUMBER, Kind.GAIN):
            return known
        if known.kind in (Kind.STREAM, Kind.VECTOR) and factor is None:
            return None if known.read.shifts else known
        if factor is None or not factor:
            return None
        times = 1.0 / factor if inverse else factor
        return self.weighed(known, times) if known.kind is not Kind.LEAF else None

    def divided(self, op: Op, met: list[Known | None]) -> Known | None:
        one, other = met
        if other is None:
            return self.scaled(op, 0, inverse=True)
        if other.kind is Kind.ENERGY:
            other = Known(Kind.NUMBER, seen=True)
        if other.kind is not Kind.NUMBER:
            return None
        if one is None:
            return None if self.along(op, 0) else other
        if one.kind is Kind.NUMBER:
            return one._replace(seen=one.seen or other.seen)
        if one.kind is Kind.LEAF:
            return Known(Kind.GAIN, seen=other.seen, read=Read((one.leaf,)))
        return self.normed(one, other) if one.kind in VECTORS else None

    def chosen(self, op: Op, met: list[Known | None]) -> Known | None:
        """Some places of it, others being zero."""
        if self.along(op, 0):
            return None
        for place, own in list(enumerate(met))[1:]:
            if own is None and constant(self.layout, op.inputs[place]) != 0.0:
                return None
            if own is not None and own.kind is not Kind.STREAM:
                return None
        return Known(Kind.STREAM)

    def number(self, op: Op, met: list[Known | None]) -> Known | None:
        """A function of norms alone."""
        own = [m for m in met if m is not None]
        if not own or any(m.kind not in (Kind.NUMBER, Kind.ENERGY) for m in own):
            return None
        if op.name not in NUMBERS | LAID_OUT:
            return None
        if any(self.along(op, place) for place in range(len(op.inputs))):
            return None
        return Known(Kind.NUMBER, seen=any(m.seen or m.kind is Kind.ENERGY for m in own))
