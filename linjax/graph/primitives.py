"""What is known of JAX's primitives: which act unit by unit, and how the unit axis travels.

A value inside a site has one axis that runs over the units. After a fold that axis is
shorter, so the operations on it are executed again with the new width; this module
says for which operations that is right, and how.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from linjax.graph.program import Const, Op, Program

_NAMES = """
    abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy
    copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow
    is_finite le lgamma log log1p logistic lt max min mul name ne neg nextafter not or pow pvary
    real reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub
    tan tanh xor
"""
ELEMENTWISE = frozenset(_NAMES.split())

# Operations that lay entries out otherwise.
LAYOUT = frozenset({"reshape", "transpose", "broadcast_in_dim", "squeeze"})

# Operations on a parameter leaf that leave its entries as they are.
VIEWS = LAYOUT | {"convert_element_type", "copy"}


def follow(op: Op, program: Program, axis: int) -> int | None:
    """Returns where an axis of a layout operation's operand ends up, None if it gets lost.

    Axes other than the followed one keep their order, so that rows stay rows.
    """
    before, after = program.shape(op.inputs[0]), program.shape(op.outputs[0])
    match op.name:
        case "transpose":
            order = [a for a in op.params["permutation"] if a != axis]
            return op.params["permutation"].index(axis) if order == sorted(order) else None
        case "broadcast_in_dim":
            dims = op.params["broadcast_dimensions"]
            return int(dims[axis]) if after[int(dims[axis])] == before[axis] else None
        case "squeeze":
            gone = op.params["dimensions"]
            return None if axis in gone else axis - sum(d < axis for d in gone)
        case "reshape":
            if op.params["dimensions"] is not None:
                return None
            ahead = math.prod(before[:axis])
            return next(
                (
                    a
                    for a, size in enumerate(after)
                    if size == before[axis] and math.prod(after[:a]) == ahead
                ),
                None,
            )
    return None


def before(op: Op, program: Program, axis: int) -> int | None:
    """Returns where an axis of a layout operation's result came from: :func:`follow` undone."""
    if op.name not in LAYOUT:
        return None
    own = range(len(program.shape(op.inputs[0])))
    return next((a for a in own if follow(op, program, a) == axis), None)


def rerun(op: Op, values: tuple[Any, ...], axis: int, width: int, traced: int) -> Any:
    """Executes an operation inside a site with ``width`` instead of ``traced`` units.

    Args:
      op: an elementwise or layout operation.
      values: its operands; those that run over units have ``width`` of them already.
      axis: unit axis of the result.
      width: the number of units now.
      traced: the number of units in the traced network.
    """
    if op.name in ELEMENTWISE and width != traced:
        # Constants that were spread over the units when traced: all units hold the same.
        values = tuple(_narrow(v, axis, width, traced) for v in values)
    if is_relu(op):
        return jax.nn.relu(values[0])  # the same values, and relu's own derivative at zero
    return op.bind(*values, **resized(op, axis, width))[0]


def resized(op: Op, axis: int, size: int) -> dict[str, tuple[int, ...]]:
    """The parameters that change where one axis of an operation's result has another size."""
    key = {"reshape": "new_sizes", "broadcast_in_dim": "shape"}.get(op.name)
    return {} if key is None else {key: put(op.params[key], axis, size)}


def put(sizes: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    """Sizes with another one for an axis."""
    return (*sizes[:axis], size, *sizes[axis + 1 :])


def is_relu(op: Op) -> bool:
    """Whether an operation is the ``max(z, 0)`` inside of ``jax.nn.relu``."""
    if op.name != "max" or not op.custom:
        return False
    zero = op.inputs[1]
    return isinstance(zero, Const) and zero.shape == () and float(zero.value) == 0.0


def _narrow(value: Any, axis: int, width: int, traced: int) -> Any:
    shape = jax.numpy.shape(value)
    if len(shape) > axis and shape[axis] == traced and traced not in (1, width):
        return lax.slice_in_dim(value, 0, width, axis=axis)
    return value
