"""Features that are concatenated, and the kernels that read them, taken to pieces.

``[a, b] W = a W₁ + b W₂`` with the rows of W that belong to a and to b. A program in which both
factors are concatenated alike is rewritten so; then a's units can go with their rows. Likewise
``v [W₁, W₂]`` where the result is cut apart again, as queries, keys and values are.
"""

import itertools
from typing import Any, NamedTuple

from jax import lax

from linjax.graph import primitives, splits
from linjax.graph.program import Op, Operand, Program, Ref, needed

Widths = tuple[int, ...]


class Seam(NamedTuple):
    """A product of concatenated features and a kernel.

    Attributes:
      at: index of the operation.
      side: which factor holds the features.
      widths: of the pieces.
    """

    at: int
    side: int
    widths: Widths


def seams(program: Program) -> list[Seam]:
    """Finds the products of concatenated features: one axis contracted, none in common."""
    return _seams(_Work.of(program))


def _seams(work: "_Work") -> list[Seam]:
    found = []
    for index, op in enumerate(work.program.ops):
        if op.name != "dot_general":
            continue
        contract, batch = op.params["dimension_numbers"]
        if any(batch) or len(contract[0]) != 1:
            continue
        for side in (0, 1):
            widths = work.widths(op.inputs[side], contract[side][0])
            if len(widths) > 1:
                found.append(Seam(index, side, widths))
                break
    return found


def taken_apart(program: Program) -> Program:
    """Computes products of concatenated features and kernels concatenated alike piece by piece.

    So are those with concatenated kernels whose results are cut apart alike.
    """
    if not any(op.name == "concatenate" for op in program.ops):
        return program
    work = _Work.of(program)
    at = {seam.at: seam for seam in _seams(work)}
    ops: list[Op] = []
    same: dict[int, Operand] = {}
    for index, op in enumerate(program.ops):
        seam = at.get(index)
        if seam is not None:
            (left,), (right,) = op.params["dimension_numbers"][0]
            factors = list(zip(op.inputs, (left, right), strict=True))
            if all(work.widths(*factor) == seam.widths for factor in factors):
                pairs = [work.pieces(*factor, ops) for factor in factors]
                work.products(op, list(zip(*pairs, strict=True)), ops)
                continue
        cut = work.cut(op)
        if cut is not None:
            pieces = work.pieces(op.inputs[0], cut[0], ops)
            same |= {ref.id: pieces[i] for ref, i in zip(op.outputs, cut[1], strict=True)}
            continue
        ops.append(op)

    def now(operand: Operand) -> Operand:
        while isinstance(operand, Ref) and operand.id in same:
            operand = same[operand.id]
        return operand

    ops = [op._replace(inputs=tuple(map(now, op.inputs))) for op in ops]
    outputs = tuple(map(now, program.outputs))
    return program._replace(ops=needed(ops, outputs), outputs=outputs, avals=work.avals)


def _before(program: Program, op: Op, axis: int) -> int | None:
    """Where an axis was in front of an operation that only moves it; others may trade places."""
    if op.name == "transpose":
        return int(op.params["permutation"][axis])
    return primitives.before(op, program, axis)


class _Work(NamedTuple):
    """A program, and values made anew beside its own.

    Attributes:
      program: the program.
      made: the operation that makes each value.
      avals: shapes and dtypes, those of new values among them.
      known: widths of pieces by value and axis.
      data: values that depend on the inputs.
    """

    program: Program
    made: dict[int, Op]
    avals: dict[int, Any]
    known: dict[tuple[int, int], Widths]
    data: frozenset[int]

    @classmethod
    def of(cls, program: Program) -> "_Work":
        """Looks up makers once."""
        return cls(program, program.makers(), dict(program.avals), {}, program.data())

    def widths(self, operand: Operand, axis: int) -> Widths:
        """Widths of the pieces that a value consists of along an axis: one where it is whole."""
        if not isinstance(operand, Ref):
            return (operand.shape[axis],)
        key = (operand.id, axis)
        if key not in self.known:
            self.known[key] = self._widths(operand, axis)
        return self.known[key]

    def _widths(self, ref: Ref, axis: int) -> Widths:
        whole = (self.program.shape(ref)[axis],)
        op = self.made.get(ref.id)
        if op is None:
            return whole
        if op.name == "concatenate" and op.params["dimension"] == axis:
            return tuple(width for piece in op.inputs for width in self.widths(piece, axis))
        if op.name in primitives.ELEMENTWISE:
            found = {self.widths(o, axis) for o in op.inputs if self.program.shape(o)}
            return found.pop() if len(found) == 1 else whole
        if op.name == "dot_general":
            side, own = self._factor(op, axis)
            return whole if own is None else self.widths(op.inputs[side], own)
        before = _before(self.program, op, axis)
        return whole if before is None else self.widths(op.inputs[0], before)

    def _factor(self, op: Op, axis: int) -> tuple[int, int | None]:
        """The factor that a product has an axis from, and where that has it, if a kernel's."""
        contract, batch = op.params["dimension_numbers"]
        if any(batch):
            return 0, None
        ranks = [len(self.program.shape(o)) for o in op.inputs]
        free = [(s, a) for s in (0, 1) for a in range(ranks[s]) if a not in contract[s]]
        side, own = free[axis]
        kernel = op.inputs[side]
        return side, None if isinstance(kernel, Ref) and kernel.id in self.data else own

    def cut(self, op: Op) -> tuple[int, list[int]] | None:
        """The axis that an operation cuts along its pieces, and which piece each result is."""
        if op.name == "split":
            axis, sizes = op.params["axis"], tuple(op.params["sizes"])
            widths = self.widths(op.inputs[0], axis)
            return (axis, list(range(len(sizes)))) if len(sizes) > 1 and widths == sizes else None
        run = splits.run_of(self.program, op)
        if run is None:
            return None
        axis, start, end = run
        ends = [0, *itertools.accumulate(self.widths(op.inputs[0], axis))]
        pairs = list(itertools.pairwise(ends))
        return (axis, [pairs.index((start, end))]) if (start, end) in pairs else None

    def fresh(self, like: Ref, axis: int | None = None, width: int = 0) -> Ref:
        """A new value, like another but for the width of one axis."""
        ref, aval = Ref(len(self.avals)), self.avals[like.id]
        shape = [width if a == axis else size for a, size in enumerate(aval.shape)]
        self.avals[ref.id] = aval.update(shape=tuple(shape))
        return ref

    def pieces(self, operand: Operand, axis: int, ops: list[Op]) -> list[Operand]:
        """Adds what computes the pieces of a value along an axis; returns these."""
        widths = self.widths(operand, axis)
        if len(widths) == 1 or not isinstance(operand, Ref):
            return [operand]
        op = self.made[operand.id]
        if op.name == "concatenate":
            return [piece for o in op.inputs for piece in self.pieces(o, axis, ops)]
        if op.name in primitives.ELEMENTWISE:
            parts = [
                self.pieces(o, axis, ops) if self.program.shape(o) else [o] * len(widths)
                for o in op.inputs
            ]
        elif op.name == "dot_general":
            side, own = self._factor(op, axis)
            assert own is not None  # so says _widths
            parts = [[o] * len(widths) for o in op.inputs]
            parts[side] = self.pieces(op.inputs[side], own, ops)
        else:
            before = _before(self.program, op, axis)
            assert before is not None  # so says _widths
            parts = [self.pieces(op.inputs[0], before, ops)]
        results: list[Operand] = []
        for inputs, width in zip(zip(*parts, strict=True), widths, strict=True):
            out = self.fresh(operand, axis, width)
            params = op.params | primitives.resized(op, axis, width)
            ops.append(op._replace(params=params, inputs=tuple(inputs), outputs=(out,)))
            results.append(out)
        return results

    def products(self, op: Op, pairs: list[tuple[Operand, ...]], ops: list[Op]) -> None:
        """Adds the products of pieces, and their sum in place of a product."""
        (result,) = op.outputs
        outs = [self.fresh(result) for _ in pairs]
        ends = [outs[0], *(self.fresh(result) for _ in pairs[2:]), result]
        for pair, out in zip(pairs, outs, strict=True):
            ops.append(op._replace(inputs=pair, outputs=(out,)))
        for before, out, end in zip(ends, outs[1:], ends[1:], strict=False):
            ops.append(Op(lax.add_p, {}, (before, out), (end,), op.custom))
