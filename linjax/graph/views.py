"""Values that are a parameter leaf seen otherwise: transposed, reshaped, broadcast, cast."""

from typing import NamedTuple

from linjax.exact.casts import cast_keeps
from linjax.graph import primitives
from linjax.graph.program import Op, Operand, Program, Ref


class Views(NamedTuple):
    """Values that are a parameter leaf seen otherwise: which leaf, and which axis is which.

    ``rounded`` are those that hold other numbers than the leaf, cast to fewer bits and back.
    """

    leaf: dict[int, int]
    axes: dict[int, tuple[int | None, ...]]
    derived: dict[int, bool]
    uses: dict[int, int]
    rounded: dict[int, int]

    def of(self, operand: Operand) -> int:
        """The leaf that an operand is a view of."""
        return self.leaf[operand_id(operand)]


def operand_id(operand: Operand) -> int:
    """Number of an operand; constants, which aren't numbered, have -1."""
    return operand.id if isinstance(operand, Ref) else -1


def find_views(program: Program) -> Views:
    """Marks the values that are views of a parameter leaf, or computed from parameters alone."""
    views, made = Views({}, {}, {}, {}, {}), program.makers()
    for index, ref in enumerate(program.leaves):
        views.leaf[ref.id] = index
        views.axes[ref.id] = tuple(range(len(program.shape(ref))))
        views.derived[ref.id] = True
    for op in program.ops:
        source = operand_id(op.inputs[0]) if op.name in primitives.VIEWS else -1
        if source in views.leaf and not keeps_numbers(program, made, op):
            views.rounded[op.outputs[0].id] = views.leaf[source]
        elif source in views.rounded:
            views.rounded[op.outputs[0].id] = views.rounded[source]
        elif source in views.leaf:
            out = op.outputs[0].id
            axes: list[int | None] = [None] * len(program.shape(op.outputs[0]))
            lost = False
            for axis, leaf_axis in enumerate(views.axes[source]):
                if leaf_axis is None:
                    continue
                to = axis if op.name in ("convert_element_type", "copy") else None
                if to is None:
                    to = primitives.follow(op, program, axis)
                if to is None and op.name == "transpose":
                    to = op.params["permutation"].index(axis)
                if to is None or axes[to] is not None:
                    lost = True
                    break
                axes[to] = leaf_axis
            if not lost:
                views.leaf[out], views.axes[out] = views.leaf[source], tuple(axes)
                views.derived[out] = True
                continue
        for operand in op.inputs:
            if isinstance(operand, Ref) and operand.id in views.leaf:
                views.uses[views.leaf[operand.id]] = views.uses.get(views.leaf[operand.id], 0) + 1
        refs = [o for o in op.inputs if isinstance(o, Ref)]
        if refs and all(r.id in views.derived for r in refs):
            views.derived.update({out.id: True for out in op.outputs})
    for operand in program.outputs:
        if isinstance(operand, Ref) and operand.id in views.leaf:
            views.uses[views.leaf[operand.id]] = views.uses.get(views.leaf[operand.id], 0) + 1
    return views


def keeps_numbers(program: Program, made: dict[int, Op], op: Op) -> bool:
    """Whether casting a value once, to the dtype of an operation's result, gives that result.

    It doesn't behind a cast to fewer bits and back, nor behind one to integers: a kernel that is
    quantised on its way is another one. A last cast to fewer bits is the rounding of the
    arithmetic that follows.

    Args:
      program: the program.
      made: from :meth:`Program.makers`.
      op: a cast or a layout operation.
    """
    if op.name != "convert_element_type":
        return True
    source = op.inputs[0]
    if not isinstance(source, Ref):
        return False
    before, after = program.avals[source.id].dtype, op.params["new_dtype"]
    kept = cast_keeps(before, after)
    while before != after and isinstance(source, Ref) and source.id in made:
        earlier = made[source.id]
        if earlier.name not in primitives.VIEWS or not isinstance(earlier.inputs[0], Ref):
            break
        source = earlier.inputs[0]
        if earlier.name == "convert_element_type":
            own = cast_keeps(program.avals[source.id].dtype, earlier.params["new_dtype"])
            kept = "changes" if own != "exact" else kept
    return kept != "changes"


def unit_leaf(program: Program, views: Views, operand: Operand, axis: int) -> int | None:
    """Returns the leaf that holds one entry a unit along this axis and nothing else."""
    if not isinstance(operand, Ref) or operand.id not in views.leaf:
        return None
    axes = views.axes[operand.id]
    if axis >= len(axes) or axes[axis] != 0 or any(a is not None for a in axes if a != axes[axis]):
        return None
    leaf = views.leaf[operand.id]
    return leaf if len(program.shape(program.leaves[leaf])) == 1 else None


def unit_axes(views: Views, leaf: int) -> dict[int, int]:
    """Unit axes of all views of a per-unit leaf."""
    return {
        ref: axes.index(0)
        for ref, axes in views.axes.items()
        if views.leaf.get(ref) == leaf and 0 in axes
    }
