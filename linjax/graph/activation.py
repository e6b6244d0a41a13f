"""What an elementwise function is: measured by evaluating it, not read off its name."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.graph import primitives
from linjax.graph.maps import Activation, Path, Slope
from linjax.graph.program import Const, Op, Operand, Program, Ref

# Functions made of these alone are piecewise linear with finitely many pieces.
_PIECEWISE = primitives.LAYOUT | {
    "max", "min", "mul", "add", "sub", "neg", "abs", "select_n", "clamp", "convert_element_type",
    "ge", "gt", "le", "lt", "copy", "div",
}  # fmt: skip

_KNOWN: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("identity", lambda z: z),
    ("relu", jax.nn.relu),
    ("relu6", jax.nn.relu6),
    ("gelu", lambda z: jax.nn.gelu(z, approximate=False)),
    ("gelu (tanh)", jax.nn.gelu),
    ("silu", jax.nn.silu),
    ("tanh", jnp.tanh),
    ("sigmoid", jax.nn.sigmoid),
    ("softplus", jax.nn.softplus),
    ("elu", jax.nn.elu),
    ("selu", jax.nn.selu),
    ("hard_tanh", jax.nn.hard_tanh),
    ("hard_sigmoid", jax.nn.hard_sigmoid),
    ("hard_silu", jax.nn.hard_silu),
    ("squared_relu", lambda z: jax.nn.relu(z) ** 2),
    ("abs", jnp.abs),
)

GRID = np.concatenate([np.linspace(-9, 9, 181), [-40.0, 40.0]])


# Values that a learned slope is tried with: both signs, either side of one, zero.
_TRIED = np.array([0.0, -1.25, 0.28125, 3.5, -0.40625, 1.0, 0.0078125, -96.0, 0.875, 1.5])


def describe(
    program: Program, ops: list[Op], pre: Ref, leaf_of: dict[int, int], leaves: dict[int, Path]
) -> Activation:
    """Names the function that ``ops`` compute from ``pre``, and measures its slopes.

    Args:
      program: the traced program.
      ops: the operations between the pre-activation and the affine maps that read it.
      pre: the pre-activation.
      leaf_of: which parameter leaf each value is a view of.
      leaves: paths of the leaves that the operations read, one entry a unit or scalar.
    """
    if leaves:
        return _with_parameters(program, ops, pre, leaf_of, leaves)
    if not ops:
        return Activation("identity", (1.0, 1.0))
    dtype = program.avals[pre.id].dtype

    def function(z: Any) -> Any:
        return evaluate(program, ops, pre, jnp.asarray(z, dtype))

    slopes = _slopes(function, dtype) if {op.name for op in ops} <= _PIECEWISE else None
    if slopes is not None and slopes not in ((0.0, 1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)):
        return Activation(
            f"leaky_relu({slopes[0]:.4g})" if slopes[1] == 1 else "two slopes", slopes
        )
    result = function(GRID)
    coarse = jnp.finfo(result.dtype).bits < 32
    name = named(np.asarray(result, np.float64), dtype, coarse)
    return Activation(name or spelled(ops), slopes)


def named(values: np.ndarray, dtype: Any, coarse: bool = False) -> str | None:
    """The name of the function that takes these values on the grid, None if it has none."""
    coarse = coarse or jnp.finfo(dtype).bits < 32
    for name, want in _known(str(jnp.dtype(dtype))):
        if np.allclose(values, want, rtol=1e-2 if coarse else 1e-5, atol=1e-6):
            return name
    return None


def _with_parameters(
    program: Program, ops: list[Op], pre: Ref, leaf_of: dict[int, int], leaves: dict[int, Path]
) -> Activation:
    """Describes an activation with parameters: two slopes, if each is a number or a leaf."""
    per_unit = any(len(program.shape(program.leaves[leaf])) for leaf in leaves)
    other = Activation(spelled(ops), per_unit=per_unit)
    if not {op.name for op in ops} <= _PIECEWISE:
        return other
    dtype = program.avals[pre.id].dtype
    # Every leaf takes every value, no two of them together in the same order.
    values = {leaf: np.roll(_TRIED, 3 * i) for i, leaf in enumerate(leaves)}
    sides = np.array([_slopes(_given(program, ops, pre, leaf_of,
                                     {leaf: v[i] for leaf, v in values.items()}), dtype)
                      or (np.nan, np.nan) for i in range(len(_TRIED))])  # fmt: skip
    if np.isnan(sides).any():
        return other

    def slope(side: np.ndarray) -> Slope | None:
        if np.ptp(side) == 0:
            return Slope(float(side[0]))
        same = (leaf for leaf in leaves if np.array_equal(values[leaf], side))
        leaf = next(same, None)
        return None if leaf is None else Slope(0.0, leaves[leaf])

    below, above = (slope(side) for side in sides.T)
    if below is None or above is None:
        return other
    name = "prelu" if above == Slope(1.0) else "two learned slopes"
    return Activation(name, learned=(below, above), per_unit=per_unit)


def _given(
    program: Program, ops: list[Op], pre: Ref, leaf_of: dict[int, int], values: dict[int, float]
) -> Callable[[Any], Any]:
    """The function of z for given values of the leaves."""

    def function(z: Any) -> Any:
        z = jnp.asarray(z, program.avals[pre.id].dtype)
        known = {
            ref: jnp.full(z.shape, values[leaf], program.avals[ref].dtype)
            for ref, leaf in leaf_of.items()
            if leaf in values
        }
        return evaluate(program, ops, pre, z, known)

    return function


def evaluate(
    program: Program, ops: list[Op], pre: Ref, z: Any, known: dict[int, Any] | None = None,
    others: Any = None,
) -> Any:  # fmt: skip
    """Evaluates an elementwise region on a vector of any length; layout is left out.

    Args:
      program: the traced program.
      ops: the region's operations.
      pre: the value that it starts from.
      z: what that value is, ``(n,)``.
      known: what other values are, ``(n,)`` each.
      others: what values are, ``(n,)``, that are neither known nor constant.
    """
    env: dict[int, Any] = {**(known or {}), pre.id: z}

    def read(operand: Operand) -> Any:
        if isinstance(operand, Ref) and operand.id in env:
            return env[operand.id]
        value = constant(program, operand)
        if value is None:
            return others
        return jnp.broadcast_to(value, z.shape) if program.shape(operand) else value

    for op in ops:
        if op.name in primitives.LAYOUT:
            env[op.outputs[0].id] = read(op.inputs[0])
        else:
            env[op.outputs[0].id] = op.bind(*map(read, op.inputs))[0]
    return jnp.broadcast_to(env[ops[-1].outputs[0].id], z.shape)


def constant(program: Program, operand: Operand) -> Any | None:
    """Returns the one number that a constant holds everywhere, None if it isn't such."""
    if isinstance(operand, Const):
        value = np.asarray(operand.value)
        same = value.size > 0 and bool((value == value.flat[0]).all())
        return (
            jnp.asarray(value.flat[0], jax.dtypes.canonicalize_dtype(value.dtype)) if same else None
        )
    made = next((op for op in program.ops if operand in op.outputs), None)
    if made is None or not made.inputs:
        return None
    if made.name in primitives.LAYOUT:
        return constant(program, made.inputs[0])
    if made.name not in primitives.ELEMENTWISE:
        return None
    values = [constant(program, o) for o in made.inputs]
    return None if any(v is None for v in values) else made.bind(*values)[0]


@functools.cache
def _known(dtype: str) -> tuple[tuple[str, np.ndarray], ...]:
    grid = jnp.asarray(GRID, dtype)
    return tuple((name, np.asarray(f(grid), np.float64)) for name, f in _KNOWN)


def _slopes(function: Callable[[Any], Any], dtype: Any) -> tuple[float, float] | None:
    """Slopes either side of zero if the function is exactly linear on each side.

    For a piecewise linear function, agreement at powers of two over the whole range of
    the dtype leaves no room for a further kink that matters.
    """
    powers = np.ldexp(1.0, np.arange(-60, 61, 3))
    with np.errstate(over="ignore"):
        positive = np.asarray(function(powers), np.float64) / powers
        negative = np.asarray(function(-powers), np.float64) / -powers
    zero = float(np.asarray(function(np.zeros(1)))[0])
    if zero != 0 or np.ptp(positive) != 0 or np.ptp(negative) != 0:
        return None
    return float(negative[0]), float(positive[0])


def spelled(ops: list[Op]) -> str:
    """A function without a name, by the operations that compute it."""
    names = list(dict.fromkeys(op.name for op in ops if op.name not in primitives.LAYOUT))
    return "·".join(names) or "identity"
