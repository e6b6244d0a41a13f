"""What operands are: a parameter leaf seen otherwise, one number everywhere, the same value."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.layout import LAYOUT, SAME, Layout
from linjax.dims.rules import elementwise
from linjax.dims.values import Source
from linjax.exact.casts import cast_keeps
from linjax.program.flat import Const, Op, Operand, Ref

Run = tuple[int, range]
"""An axis of a leaf, and which of its entries are there."""


class Seen(NamedTuple):
    """A value that is a parameter leaf seen otherwise.

    Attributes:
      leaf: its number.
      axes: for every axis of the value, what it is of the leaf; None where it was spread.
      rounded: whether a cast on the way has rounded to fewer bits.
    """

    leaf: int
    axes: tuple[Run | None, ...]
    rounded: bool = False

    def along(self, axis: int) -> Run | None:
        """What an axis is of the leaf, where the value is the same along all others."""
        others = (a for n, a in enumerate(self.axes) if n != axis)
        return None if axis >= len(self.axes) or any(others) else self.axes[axis]


def find_views(layout: Layout) -> dict[int, Seen]:
    """Returns all values that are a leaf seen otherwise, by number.

    Casting to fewer bits and back, or to integers, makes other numbers: a kernel that is
    quantised on its way is another one. A last cast to fewer bits is the rounding of the
    arithmetic that follows.
    """
    found = {}
    for leaf in range(len(layout.leaves)):
        ref = layout.program.inputs[leaf]
        shape = layout.program.shape(ref)
        found[ref.id] = Seen(leaf, tuple((n, range(size)) for n, size in enumerate(shape)))
    for op in layout.program.ops:
        first = op.inputs[0] if op.inputs else None
        if isinstance(first, Ref) and first.id in found:
            own = {out.id: _through(layout, op, out, found[first.id]) for out in op.outputs}
            found |= {key: view for key, view in own.items() if view is not None}
    return found


def _through(layout: Layout, op: Op, result: Ref, source: Seen) -> Seen | None:
    """What a leaf's view is behind an operation."""
    before, after = layout.program.shape(op.inputs[0]), layout.program.shape(result)
    axes: list[Run | None] = [None] * len(after)
    match op.name:
        case "convert_element_type":
            dtypes = _dtype(layout, op.inputs[0]), op.params["new_dtype"]
            kept = cast_keeps(*dtypes)
            if kept == "changes" or (source.rounded and dtypes[0] != dtypes[1]):
                return None
            return source._replace(rounded=source.rounded or kept == "rounds")
        case "transpose":
            axes = [source.axes[n] for n in op.params["permutation"]]
        case "broadcast_in_dim":
            for own, at in enumerate(op.params["broadcast_dimensions"]):
                axes[at] = source.axes[own] if before[own] == after[at] else None
        case "reshape" | "squeeze":
            wide = [n for n, size in enumerate(before) if size != 1]
            if [before[n] for n in wide] != [size for size in after if size != 1]:
                return None
            left = iter(wide)
            axes = [None if size == 1 else source.axes[next(left)] for size in after]
        case "slice" | "split":
            for n, (start, stop, step) in enumerate(bounds(op, result, before)):
                run = source.axes[n]
                axes[n] = None if run is None else (run[0], run[1][start:stop:step])
        case _:
            return source if op.name in SAME else None
    return source._replace(axes=tuple(axes))


def bounds(op: Op, result: Ref, shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Which entries a ``slice`` or ``split`` takes along every axis: start, stop, step."""
    if op.name == "slice":
        steps = op.params["strides"] or (1,) * len(shape)
        return list(zip(op.params["start_indices"], op.params["limit_indices"], steps, strict=True))
    found, at = [(0, size, 1) for size in shape], op.outputs.index(result)
    start = int(sum(op.params["sizes"][:at]))
    found[op.params["axis"]] = (start, start + int(op.params["sizes"][at]), 1)
    return found


def constant(layout: Layout, operand: Operand) -> Any | None:
    """The one number that a constant holds everywhere, None if it isn't such."""
    if isinstance(operand, Const):
        value = np.asarray(operand.value)
        if not value.size or not bool((value == value.flat[0]).all()):
            return None
        return jnp.asarray(value.flat[0], jax.dtypes.canonicalize_dtype(value.dtype))
    op = layout.makers.get(operand.id)
    if op is None or not op.inputs or layout.values[operand.id].source is not Source.CONSTANT:
        return None
    if op.name in LAYOUT:
        return constant(layout, op.inputs[0])
    values = [constant(layout, o) for o in op.inputs] if op.name in elementwise.RULES else [None]
    return None if any(v is None for v in values) else op.bind(*values)[0]


def follow(layout: Layout, op: Op, axis: int) -> int | None:
    """Where an axis of a layout operation's operand ends up, None if it gets lost.

    Axes other than the followed one keep their order, so that rows stay rows.
    """
    if op.name not in LAYOUT:
        return None
    before, after = layout.program.shape(op.inputs[0]), layout.program.shape(op.outputs[0])
    if op.name == "transpose":
        order = [a for a in op.params["permutation"] if a != axis]
        return op.params["permutation"].index(axis) if order == sorted(order) else None
    if op.name == "broadcast_in_dim":
        at = int(op.params["broadcast_dimensions"][axis])
        return at if after[at] == before[axis] else None
    found = regrouped(op, before, after, (axis,))
    return found[0] if found is not None and len(found) == 1 else None


def regrouped(
    op: Op, before: tuple[int, ...], after: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[int, ...] | None:
    """Which axes neighbouring ones are behind a reshape that keeps them together."""
    if op.params.get("dimensions") is not None and op.name == "reshape":
        return None
    ahead, own = int(np.prod(before[: axes[0]])), int(np.prod([before[n] for n in axes]))
    for first in range(len(after)):
        if after[first] == 1 or int(np.prod(after[:first])) != ahead:
            continue
        last = first + 1
        while last < len(after) and int(np.prod(after[first:last])) < own:
            last += 1
        if int(np.prod(after[first:last])) == own:
            return tuple(range(first, last))
    return None


def _dtype(layout: Layout, operand: Operand) -> Any:
    if isinstance(operand, Const):
        return jnp.result_type(operand.value)
    return layout.program.avals[operand.id].dtype
