"""Kernels of several maps at once: a result that is cut apart, rewritten as a result for each part.

``a, b = split(v W + c)`` says what ``a = v W₁ + c₁`` and ``b = v W₂ + c₂`` say with the halves of
W's columns and of c. Where such parts meet again unit by unit, as those of a gated layer do, a cut
is pushed back through what it commutes with, up to the parameters: then each part is a leaf.
"""

from typing import NamedTuple

from linjax.graph import primitives
from linjax.graph.maps import Part, Path
from linjax.graph.program import Cut, Op, Operand, Program, Ref
from linjax.graph.structure import Leaf


class _Unfit(Exception):
    """A cut doesn't come from parameters that are cut alike."""


class _Way(NamedTuple):
    """A value that is cut into equal parts, and what has to be cut for it.

    Attributes:
      of: the number of parts.
      parts: by number of a result of the cut, which part it is.
      axes: the values on the way from the parameters and the parameters, by number, with the axis
        that is cut.
    """

    of: int
    parts: dict[int, int]
    axes: dict[int, int]


def cut(
    program: Program, leaves: tuple[Leaf, ...], whole: frozenset[Path]
) -> tuple[Program, tuple[Leaf, ...]]:
    """Rewrites what is cut apart and meets again, with a leaf for each part of a leaf.

    Args:
      program: any program.
      leaves: its leaves.
      whole: paths of leaves that are not to be cut.

    Returns:
      The program, and its leaves.
    """
    kept = {ref.id for ref, leaf in zip(program.leaves, leaves, strict=True) if leaf.path in whole}
    ways = [way for way in _ways(program, kept) if _meet(program, way)]
    return _rewritten(program, leaves, ways) if ways else (program, leaves)


def _ways(program: Program, kept: set[int]) -> list[_Way]:
    """Finds all cuts that can be pushed back to parameters."""
    readers = program.readers()
    found, taken = [], set(kept)
    for value in [*program.leaves, *(op.outputs[0] for op in program.ops)]:
        indices = readers.get(value.id, [])
        if not indices or -1 in indices:
            continue
        try:
            axis, of, parts = _parts(program, value, [program.ops[i] for i in indices])
            axes: dict[int, int] = {}
            _push(program, value, axis, of, axes)
        except _Unfit:
            continue
        once = all(len(readers[ref]) == 1 for ref in axes if ref != value.id)
        if once and not taken & axes.keys():
            found.append(_Way(of, parts, axes))
            taken.update(axes)
    return found


def _parts(program: Program, value: Ref, ops: list[Op]) -> tuple[int, int, dict[int, int]]:
    """Reads the readers of a value as a cut: its axis, the number of parts, who is which."""
    shape = program.shape(value)
    starts: dict[int, int] = {}
    found = set()
    for op in ops:
        if op.name == "split":
            axis, sizes = op.params["axis"], {int(size) for size in op.params["sizes"]}
            starts |= {out.id: i * min(sizes) for i, out in enumerate(op.outputs)}
        elif op.name == "slice" and set(op.params["strides"] or (1,)) == {1}:
            first, limit = op.params["start_indices"], op.params["limit_indices"]
            cuts = [a for a in range(len(shape)) if (first[a], limit[a]) != (0, shape[a])]
            axis, sizes = cuts[0] if len(cuts) == 1 else -1, {limit[a] - first[a] for a in cuts}
            starts[op.outputs[0].id] = first[axis]
        else:
            raise _Unfit
        found |= {(axis, size) for size in sizes}
    if len(found) != 1:
        raise _Unfit
    ((axis, size),) = found
    if axis < 0 or sorted({*starts.values()}) != list(range(0, shape[axis], size)):
        raise _Unfit
    return axis, shape[axis] // size, {ref: start // size for ref, start in starts.items()}


def _push(program: Program, operand: Operand, axis: int, of: int, axes: dict[int, int]) -> None:
    """Pushes a cut of a value back to the parameters that it is computed from."""
    if not isinstance(operand, Ref):
        raise _Unfit
    axes[operand.id] = axis
    if operand in program.leaves:
        return
    op = next((op for op in program.ops if op.outputs == (operand,)), None)
    if op is None:
        raise _Unfit
    if op.name in primitives.ELEMENTWISE:
        for other in op.inputs:
            if program.shape(other):
                _push(program, other, axis, of, axes)
    elif op.name == "dot_general":
        _push(program, *_factor(program, op, axis), of, axes)
    elif op.name in primitives.LAYOUT:
        _push(program, op.inputs[0], _before(program, op, axis, of), of, axes)
    else:
        raise _Unfit


def _factor(program: Program, op: Op, axis: int) -> tuple[Operand, int]:
    """The factor of a product that an axis comes from, and which axis of it."""
    contract, batch = op.params["dimension_numbers"]
    origins = []
    for side, factor in enumerate(op.inputs):
        gone = {*contract[side], *batch[side]}
        origins += [(factor, a) for a in range(len(program.shape(factor))) if a not in gone]
    if axis < len(batch[0]):
        raise _Unfit
    return origins[axis - len(batch[0])]


def _before(program: Program, op: Op, axis: int, of: int) -> int:
    """Where an axis was in front of a layout operation, one of the parts' own among them."""
    own = primitives.before(op, program, axis)
    if own is not None:
        return own
    before, after = program.shape(op.inputs[0]), program.shape(op.outputs[0])
    ahead = op.name == "reshape" and axis < len(before) and before[:axis] == after[:axis]
    if ahead and after[axis : axis + 2] == (of, before[axis] // of):
        return axis
    raise _Unfit


def _meet(program: Program, way: _Way) -> bool:
    """Whether all parts take part in some value, unit by unit."""
    data = {ref.id for ref in program.inputs}
    reached = {ref: {part} for ref, part in way.parts.items()}
    for op in program.ops:
        ids = [o.id for o in op.inputs if isinstance(o, Ref)]
        out = op.outputs[0].id
        if data & set(ids):
            data.update(ref.id for ref in op.outputs)
        if op.name == "dot_general":
            ids = [i for i in ids if i not in data]
        elif op.name not in primitives.ELEMENTWISE and op.name not in primitives.LAYOUT:
            continue
        met = set[int]().union(*(reached.get(i, ()) for i in ids))
        if len(met) == way.of:
            return True
        if met:
            reached[out] = met
    return False


def _rewritten(
    program: Program, leaves: tuple[Leaf, ...], ways: list[_Way]
) -> tuple[Program, tuple[Leaf, ...]]:
    """Computes each part of what is cut by itself."""
    way_of = {number: way for way in ways for number in way.axes}
    part_of = {number: part for way in ways for number, part in way.parts.items()}
    avals = dict(program.avals)
    pieces: dict[int, list[Ref]] = {}
    for number, way in way_of.items():
        axis, aval = way.axes[number], avals[number]
        shape = [size // way.of if a == axis else size for a, size in enumerate(aval.shape)]
        pieces[number] = [Ref(len(avals) + i) for i in range(way.of)]
        avals |= {piece.id: aval.update(shape=tuple(shape)) for piece in pieces[number]}
    new: dict[int, Ref] = {}

    def now(operand: Operand, part: int = -1) -> Operand:
        if not isinstance(operand, Ref):
            return operand
        own = pieces.get(operand.id)
        return new.get(operand.id, operand) if own is None else own[part]

    ops: list[Op] = []
    for op in program.ops:
        out = op.outputs[0]
        if out.id in part_of:
            source = pieces[op.inputs[0].id]  # type: ignore[union-attr]
            new |= {ref.id: source[part_of[ref.id]] for ref in op.outputs}
        elif out.id in way_of:
            axis, of = way_of[out.id].axes[out.id], way_of[out.id].of
            size = program.shape(out)[axis] // of
            params = op.params | primitives.resized(op, axis, size)
            for part, piece in enumerate(pieces[out.id]):
                inputs = tuple(now(o, part) for o in op.inputs)
                ops.append(op._replace(params=params, inputs=inputs, outputs=(piece,)))
        else:
            ops.append(op._replace(inputs=tuple(map(now, op.inputs))))
    refs: list[Ref] = []
    own: list[Leaf] = []
    cuts: dict[int, Cut] = {}
    for ref, leaf in zip(program.leaves, leaves, strict=True):
        for part, piece in enumerate(pieces.get(ref.id, [ref])):
            refs.append(piece)
            own.append(leaf._replace(shape=tuple(avals[piece.id].shape)))
            if ref.id in way_of:
                way = way_of[ref.id]
                cuts[piece.id] = Cut(way.axes[ref.id], Part(part, way.of))
    changed = program._replace(
        ops=tuple(ops), leaves=tuple(refs), outputs=tuple(map(now, program.outputs)),
        avals=avals, cuts=cuts,
    )  # fmt: skip
    return changed, tuple(own)
