"""Kernels of several maps whose result is cut apart: queries, keys and values of one product."""

from typing import NamedTuple

from linjax.graph.program import Op, Program, Ref
from linjax.graph.views import Views, operand_id

SAME = frozenset({"convert_element_type", "copy", "copy_p", "name"})


class Split(NamedTuple):
    """A product whose result is used in parts.

    Attributes:
      axes: its kernel and its bias, by the leaf's number, with the axis that runs over outputs.
      widths: the parts' numbers of outputs.
    """

    axes: dict[int, int]
    widths: tuple[int, ...]


def find(program: Program, views: Views) -> list[Split]:
    """Finds all products of a kernel of two axes whose results are cut into several parts."""
    readers = program.readers()
    found = [_split(program, views, readers, op) for op in program.ops if op.name == "dot_general"]
    return [split for split in found if split is not None]


def _split(program: Program, views: Views, readers: dict[int, list[int]], op: Op) -> Split | None:
    contract, batch = op.params["dimension_numbers"]
    for side in (0, 1):
        leaf = _alone(views, op.inputs[side])
        if leaf is None or any(batch) or len(program.shape(op.inputs[side])) != 2:
            continue
        along = views.axes[operand_id(op.inputs[side])][1 - contract[side][0]]
        axis = 0 if side == 0 else len(program.shape(op.outputs[0])) - 1
        if along is not None:
            return _followed(program, views, readers, op.outputs[0], axis, {leaf: along})
    return None


def _alone(views: Views, operand: object) -> int | None:
    """The leaf that a value is, if nothing else reads it."""
    if not isinstance(operand, Ref) or operand.id not in views.leaf:
        return None
    leaf = views.of(operand)
    return leaf if views.uses[leaf] == 1 else None


def _followed(
    program: Program, views: Views, readers: dict[int, list[int]], value: Ref, axis: int,
    axes: dict[int, int],
) -> Split | None:  # fmt: skip
    """Follows a result past its bias to where it is cut."""
    while True:
        indices = readers.get(value.id, [-1])
        if -1 in indices:
            return None
        ops = [program.ops[i] for i in indices]
        widths = _tiles(program, value, ops, axis)
        if len(widths) > 1:
            return Split(axes, widths)
        if len(ops) != 1:
            return None
        (op,) = ops
        if op.name == "add":
            other = op.inputs[1] if op.inputs[0] == value else op.inputs[0]
            leaf = _alone(views, other)
            if leaf is None or views.axes[operand_id(other)][axis] != 0:
                return None
            axes = axes | {leaf: 0}
        elif op.name not in SAME:
            return None
        value = op.outputs[0]


def _tiles(program: Program, value: Ref, ops: list[Op], axis: int) -> tuple[int, ...]:
    """Widths of the runs that operations cut an axis into, if each of it is in one."""
    if len(ops) == 1 and ops[0].name == "split":
        return tuple(ops[0].params["sizes"]) if ops[0].params["axis"] == axis else ()
    runs = [run_of(program, op) for op in ops]
    if any(run is None or run[0] != axis for run in runs):
        return ()
    cut = sorted((run[1], run[2]) for run in runs if run is not None)
    ends = [0, *(end for _, end in cut)]
    whole = ends[-1] == program.shape(value)[axis]
    fits = all(start == end for (start, _), end in zip(cut, ends, strict=False))
    return tuple(end - start for start, end in cut) if whole and fits else ()


def run_of(program: Program, op: Op) -> tuple[int, int, int] | None:
    """The axis that a slice cuts, and where the run starts and ends; None for any other."""
    if op.name != "slice" or any(s != 1 for s in op.params["strides"] or ()):
        return None
    starts, ends = op.params["start_indices"], op.params["limit_indices"]
    sizes = program.shape(op.inputs[0])
    own = [a for a, n in enumerate(sizes) if (starts[a], ends[a]) != (0, n)]
    return (own[0], starts[own[0]], ends[own[0]]) if len(own) == 1 else None
