"""Streams that norms run over: which of them may change their basis, and what stands behind norms.

A norm ``γ (x − mean x) / sqrt(mean (x − mean x)² + ε) + β`` turns with an orthonormal basis of x
but for γ and β, which kernels behind it can take over. Every value along such a dimension is
followed from what makes it to the kernels that read it; whatever else meets it is a reason to
leave it alone.
"""

import math
from collections.abc import Sequence
from typing import Any

from linjax.dims.layout import Layout, number
from linjax.dims.norm_steps import LAID_OUT, SAME, SCANNED, SUMS, VECTORS, Steps
from linjax.dims.norm_values import Kind, Known, Norms, Read, Stuck
from linjax.dims.values import Source
from linjax.program.flat import Op, Ref


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


class _Walk(Steps):
    """Follows all values along a dimension, in the order of execution."""

    def norms(self, makers: Sequence[Any], readers: Sequence[Any], points: Sequence[int]) -> Norms:
        """Checks everything that meets the stream."""
        layout, leaves = self.layout, set[int]()
        for leaf, spans in enumerate(layout.leaves):
            if any(self.dim in s.dims() for s in spans):
                leaves.add(leaf)
                self.axis(layout.values[self.ref(leaf)])
                self.known[self.ref(leaf)] = Known(Kind.LEAF, leaf=leaf)
        for op in layout.program.ops:
            self.step(op)
        made, read = {m.leaf for m in makers}, {r.leaf for r in readers}
        if None in made | read:
            raise Stuck("a computed kernel makes or reads what a norm runs over")
        reads = tuple(self.at(point, made, readers) for point in points)
        found = Norms(reads, self.summed)
        for operand in layout.program.outputs:
            known = self.known.get(operand.id) if isinstance(operand, Ref) else None
            if known is not None and (known.kind in SUMS or (self.summed and known.seen)):
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
            if met[0] is None or op.name not in LAID_OUT:
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
        if found.kind is Kind.STREAM and op.name not in SAME:
            found = found._replace(of=number(op))
        if found.kind in (*VECTORS, Kind.SQUARE, Kind.GAIN) and self.dim in out.dims():
            self.axis(out)
        if self.dim in out.dims() or found.kind not in VECTORS:
            self.known[number(op)] = found

    def result(self, op: Op, met: list[Known | None]) -> Known | None:
        """What an operation's result is; None where that isn't known."""
        if op.name in ("dot_general", "conv_general_dilated"):
            return self.product(op, met)
        if op.name == "reduce_sum":
            return self.reduced(op, met[0])
        if op.name == "gather" and met[0] is not None and met[0].kind is Kind.LEAF:
            return Known(Kind.STREAM)
        if op.name in LAID_OUT and met[0] is not None:
            return met[0]
        if op.name == "concatenate":
            return self.joined(op, met)
        if op.name in ("square", "integer_pow"):
            twice = op.name == "square" or op.params["y"] == 2
            if twice and met[0] is not None and met[0].kind in (*VECTORS, Kind.SUM):
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
        if op.name == "neg" and met[0] is not None and met[0].kind is not Kind.NUMBER:
            return (
                met[0]._replace(weight=-met[0].weight)
                if met[0].kind is Kind.SUM
                else (met[0] if met[0].kind is Kind.STREAM else None)
            )
        if op.name == "select_n" and any(m and m.kind in VECTORS for m in met):
            return self.chosen(op, met)
        return self.number(op, met)
