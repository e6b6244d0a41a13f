"""Where the channels are in a value, and how channelwise operations move them.

An operation is channelwise if channel i of its result depends on channel i of its operand
alone. After a fold there are fewer channels, and the operation runs again with as many.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from linjax.graph import primitives
from linjax.graph.program import Const, Op, Program


class Place(NamedTuple):
    """The axis that runs over channels: ``outer · m · inner`` entries if flattened with others.

    Attributes:
      axis: the axis.
      outer: entries of the axes flattened in front of the channels.
      inner: entries of those flattened behind.
      below: channels of others that are concatenated in front of them.
      above: likewise behind them.
    """

    axis: int
    outer: int = 1
    inner: int = 1
    below: int = 0
    above: int = 0

    def extent(self, width: int) -> int:
        """Entries of the axis with so many channels."""
        return self.outer * (self.below + width + self.above) * self.inner

    @property
    def flattened(self) -> bool:
        """Whether the axis runs over others than channels, too."""
        return self.outer * self.inner != 1

    @property
    def among(self) -> tuple[int, int]:
        """Channels of others in front of them and behind them."""
        return self.below, self.above


LINEAR = primitives.LAYOUT | {"reduce_window_sum", "reduce_sum"}
LINEAR |= {"slice", "rev", "gather", "dot_general", "concatenate"}
"""Channelwise operations that are linear; ``pad`` is where it pads by zeros."""

HOMOGENEOUS = LINEAR | {"reduce_window_max", "reduce_window_min", "reduce_max", "reduce_min"}
HOMOGENEOUS |= {"mul", "div", "convert_element_type"}
"""Operations behind an activation that commute with a positive factor, factors being constants."""

_WINDOWS = ("reduce_window_max", "reduce_window_min", "reduce_window_sum")
_REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod")


def moved(op: Op, program: Program, place: Place, width: int, side: int = 0) -> Place | None:
    """Returns where channels are after an operation, None if it isn't channelwise.

    Args:
      op: an operation one of whose operands holds them.
      program: the traced program.
      place: where they are in that operand.
      width: the number of channels when traced.
      side: which operand it is; only a concatenation may have them in another than its first.
    """
    before, after = program.shape(op.inputs[0]), program.shape(op.outputs[0])
    axis = place.axis
    if op.name == "reshape":
        return None if op.params["dimensions"] else _reshaped(before, after, place, width)
    if op.name == "transpose":
        return place._replace(axis=op.params["permutation"].index(axis))
    if op.name in ("broadcast_in_dim", "squeeze"):
        to = primitives.follow(op, program, axis)
        return None if to is None else place._replace(axis=to)
    if op.name in _WINDOWS:
        own = [op.params[k][axis] for k in ("window_dimensions", "window_strides")]
        own += [op.params[k][axis] for k in ("base_dilation", "window_dilation")]
        return place if own == [1] * 4 and tuple(op.params["padding"][axis]) == (0, 0) else None
    if op.name in _REDUCTIONS:
        gone = op.params["axes"]
        return None if axis in gone else place._replace(axis=axis - sum(a < axis for a in gone))
    if op.name == "pad":
        return place if tuple(op.params["padding_config"][axis]) == (0, 0, 0) else None
    if op.name == "rev":
        return None if axis in op.params["dimensions"] else place
    if op.name == "slice":
        return place if after[axis] == before[axis] and not _strided(op, axis) else None
    if op.name == "gather":
        return _gathered(op, before, place)
    if op.name == "concatenate":
        return _joined(op, program, place, side)
    return None


def _joined(op: Op, program: Program, place: Place, side: int) -> Place | None:
    """Channels with others beside them."""
    if op.params["dimension"] != place.axis or place.flattened:
        return None
    widths = [program.shape(operand)[place.axis] for operand in op.inputs]
    below, above = sum(widths[:side]), sum(widths[side + 1 :])
    return place._replace(below=place.below + below, above=place.above + above)


def _strided(op: Op, axis: int) -> bool:
    strides = op.params["strides"]
    return strides is not None and strides[axis] != 1


def _reshaped(
    before: tuple[int, ...], after: tuple[int, ...], place: Place, width: int
) -> Place | None:
    """The entries in front of a channel and behind it, in row-major order, stay the same."""
    ahead = math.prod(before[: place.axis]) * place.outer
    behind = math.prod(before[place.axis + 1 :]) * place.inner
    found = []
    for axis, size in enumerate(after):
        front, back = math.prod(after[:axis]), math.prod(after[axis + 1 :])
        if not front or not back or ahead % front or behind % back:
            continue
        new = place._replace(axis=axis, outer=ahead // front, inner=behind // back)
        if new.extent(width) == size:
            found.append(new)
    return min(found, key=lambda p: p.outer * p.inner, default=None)


def _gathered(op: Op, before: tuple[int, ...], place: Place) -> Place | None:
    """Whole slices along the channels' axis, as in upsampling by repetition."""
    numbers = op.params["dimension_numbers"]
    axis = place.axis
    own = axis in numbers.collapsed_slice_dims or axis in numbers.start_index_map
    if own or axis in numbers.operand_batching_dims:
        return None
    if op.params["slice_sizes"][axis] != before[axis] or op.params["fill_value"] is not None:
        return None
    away = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    windows = [a for a in range(len(before)) if a not in away]
    return place._replace(axis=int(numbers.offset_dims[windows.index(axis)]))


def mixed(op: Op, program: Program, place: Place, side: int) -> Place | None:
    """Where channels are after a product with a constant matrix along another axis."""
    contract, batch = op.params["dimension_numbers"]
    if place.axis in contract[side] or batch[0]:
        return None
    ranks = [len(program.shape(o)) for o in op.inputs]
    free = [a for a in range(ranks[side]) if a not in contract[side]]
    ahead = 0 if side == 0 else ranks[0] - len(contract[0])
    return place._replace(axis=ahead + free.index(place.axis))


def rerun(
    op: Op, values: tuple[Any, ...], before: Place, after: Place, width: int, traced: int
) -> Any:
    """Executes a channelwise operation with ``width`` instead of ``traced`` channels."""
    if op.name in primitives.ELEMENTWISE and width != traced:
        values = tuple(_narrow(v, after, width, traced) for v in values)
    elif op.name == "slice":
        limits = primitives.put(op.params["limit_indices"], before.axis, before.extent(width))
        return op.bind(*values, limit_indices=limits)[0]
    elif op.name == "gather":
        sizes = primitives.put(op.params["slice_sizes"], before.axis, before.extent(width))
        return op.bind(*values, slice_sizes=sizes)[0]
    elif op.name == "conv_general_dilated":
        return op.bind(*values, feature_group_count=width)[0]
    if primitives.is_relu(op):
        return jax.nn.relu(values[0])  # with relu's own derivative at zero
    changed = primitives.resized(op, after.axis, after.extent(width))
    return op.bind(*values, **changed)[0]


def _narrow(value: Any, place: Place, width: int, traced: int) -> Any:
    """A constant that was spread over the channels, all alike, with fewer of them."""
    shape = getattr(value, "shape", ())
    full = place.extent(traced)
    if len(shape) > place.axis and shape[place.axis] == full and full != place.extent(width):
        return lax.slice_in_dim(value, 0, place.extent(width), axis=place.axis)
    return value


def part_of(value: Any, place: Place, start: int, number: int) -> Any:
    """Returns a run of the channels of a value."""
    if not place.outer * place.inner:
        return value  # flattened with an axis without entries
    shape, axis = value.shape, place.axis
    width = shape[axis] // (place.outer * place.inner)
    split = (*shape[:axis], place.outer, width, place.inner, *shape[axis + 1 :])
    taken = lax.slice_in_dim(value.reshape(split), start, start + number, axis=axis + 1)
    return taken.reshape(*shape[:axis], place.outer * number * place.inner, *shape[axis + 1 :])


def constant_along(value: Const, place: Place) -> bool:
    """Whether a constant is the same for all channels."""
    array = np.asarray(value.value)
    if array.ndim <= place.axis or array.shape[place.axis] == 1:
        return True
    first = array.take([0], axis=place.axis)
    return bool((array == first).all())
