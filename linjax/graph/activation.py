"""What an elementwise function is: its name by evaluation, its slopes by proof."""

import functools
from collections.abc import Callable, Container, Iterable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.exact import scalar
from linjax.exact.forms import Coefficient, as_number
from linjax.exact.scalar import Parameter, Scalar
from linjax.graph import primitives
from linjax.graph.maps import Activation, Path, Slope
from linjax.graph.program import Const, Op, Operand, Program, Ref

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


def describe(
    program: Program,
    ops: list[Op],
    pre: Ref,
    leaf_of: dict[int, int],
    leaves: dict[int, Path],
    ends: Iterable[Ref] = (),
) -> Activation:
    """Names the function that ``ops`` compute from ``pre``, and proves its slopes.

    The name is found by evaluation and decides nothing; slopes follow from the primitives.

    Args:
      program: the traced program.
      ops: the operations between the pre-activation and the affine maps that read it.
      pre: the pre-activation.
      leaf_of: which parameter leaf each value is a view of.
      leaves: paths of the leaves that the operations read, one entry a unit or scalar.
      ends: the values that the maps read; by default the last operation's result. Slopes are
        those of all of them.
    """
    per_unit = any(len(program.shape(program.leaves[leaf])) for leaf in leaves)
    slopes = _slopes(program, ops, pre, leaf_of, leaves, tuple(ends))
    if leaves:
        if slopes is None:
            return Activation(spelled(ops), per_unit=per_unit)
        name = "prelu" if slopes[1] == Slope(1.0) else "two learned slopes"
        return Activation(name, learned=slopes, per_unit=per_unit)
    if not ops:
        return Activation("identity", (1.0, 1.0))
    pair = None if slopes is None else (slopes[0].value, slopes[1].value)
    if pair is not None and pair not in ((0.0, 1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)):
        return Activation(f"leaky_relu({pair[0]:.4g})" if pair[1] == 1 else "two slopes", pair)
    dtype = program.avals[pre.id].dtype
    result = evaluate(program, ops, pre, jnp.asarray(GRID, dtype))
    coarse = jnp.finfo(result.dtype).bits < 32
    name = named(np.asarray(result, np.float64), dtype, coarse)
    return Activation(name or spelled(ops), pair)


def prove(
    program: Program, ops: list[Op], pre: Ref, leaf_of: dict[int, int], leaves: Container[int],
    end: Ref | None = None,
) -> Scalar:  # fmt: skip
    """Proves what operations compute from a pre-activation; arguments as for :func:`describe`."""

    def outside(operand: Operand) -> Any:
        leaf = leaf_of.get(operand.id) if isinstance(operand, Ref) else None
        if leaf is not None:
            return Parameter(leaf) if leaf in leaves else None
        return constant(program, operand)

    return scalar.describe(program, ops, pre, outside, end)


def _slopes(
    program: Program, ops: list[Op], pre: Ref, leaf_of: dict[int, int], leaves: dict[int, Path],
    ends: tuple[Ref, ...],
) -> tuple[Slope, Slope] | None:  # fmt: skip
    """The slopes below and above zero, if all ends are linear on either side of it alike."""
    found = [prove(program, ops, pre, leaf_of, leaves, end).two_slopes for end in ends or (None,)]
    if found[0] is None or any(other != found[0] for other in found):
        return None
    below, above = (as_slope(slope, leaves) for slope in found[0])
    return None if below is None or above is None else (below, above)


def as_slope(value: Coefficient, leaves: dict[int, Path]) -> Slope | None:
    """A proven slope as one number or one parameter, None where it is neither exactly."""
    number = as_number(value)
    if number is not None:
        return Slope(float(number)) if Fraction(float(number)) == number else None
    alone = [key for key, factor in value.items() if len(key) == 1 and factor == 1]
    return Slope(0.0, leaves[alone[0][0]]) if len(value) == len(alone) == 1 else None


def named(values: np.ndarray, dtype: Any, coarse: bool = False) -> str | None:
    """The name of the function that takes these values on the grid, None if it has none."""
    coarse = coarse or jnp.finfo(dtype).bits < 32
    for name, want in _known(str(jnp.dtype(dtype))):
        if np.allclose(values, want, rtol=1e-2 if coarse else 1e-5, atol=1e-6):
            return name
    return None


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


def spelled(ops: list[Op]) -> str:
    """A function without a name, by the operations that compute it."""
    names = list(dict.fromkeys(op.name for op in ops if op.name not in primitives.LAYOUT))
    return "·".join(names) or "identity"
