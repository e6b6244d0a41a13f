"""What an elementwise function is: its name by evaluation, its slopes by proof."""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.chains.groups import Group
from linjax.chains.leaves import LAYOUT, constant
from linjax.chains.maps import Activation, Slope
from linjax.chains.products import Program
from linjax.chains.region import Region
from linjax.exact import scalar
from linjax.exact.forms import Coefficient, as_number
from linjax.exact.scalar import Parameter, Scalar
from linjax.program.flat import PLACES, Op, Operand, Ref
from linjax.program.pytree import Path

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

_GRID = np.concatenate([np.linspace(-9, 9, 181), [-40.0, 40.0]])


def describe(program: Program, region: Region, pre: Ref) -> Activation:
    """Names the function of a pre-activation that a region computes, and proves its slopes.

    The name is found by evaluation and decides nothing; slopes follow from the primitives.
    """
    ops = region.ops
    per_unit = any(program.leaf_shape(leaf) for leaf in region.leaves)
    slopes = _slopes(program, region, pre)
    if region.leaves:
        if slopes is None:
            return Activation(_spelled(ops), per_unit=per_unit)
        name = "prelu" if slopes[1] == Slope(1.0) else "two learned slopes"
        return Activation(name, learned=slopes, per_unit=per_unit)
    if not ops:
        return Activation("identity", (1.0, 1.0))
    pair = None if slopes is None else (slopes[0].value, slopes[1].value)
    if pair is not None and pair not in ((0.0, 1.0), (1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)):
        return Activation(f"leaky_relu({pair[0]:.4g})" if pair[1] == 1 else "two slopes", pair)
    dtype = program.layout.program.avals[pre.id].dtype
    result = _evaluate(program, ops, {pre.id: jnp.asarray(_GRID, dtype)})
    coarse = bool(jnp.finfo(result.dtype).bits < 32)
    name = _named(np.asarray(result, np.float64), dtype, coarse)
    return Activation(name or _spelled(ops), pair)


def describe_gate(program: Program, region: Region, groups: list[Group]) -> tuple[Activation, int]:
    """Names what a region computes from several pre-activations, and finds the gate.

    With all the others set to 1, and the units' parameters too, a gated layer is its gate's
    activation.

    Returns:
      The activation, and which of the groups is the gate (the first without one).
    """
    dtype = program.layout.program.avals[groups[0].map.results[0].id].dtype
    grid = jnp.asarray(_GRID, dtype)
    ones = jnp.ones_like(grid)
    found = []
    for moving in groups:
        known = {ref.id: ones if g is not moving else grid for g in groups for ref in g.map.results}
        result = _evaluate(program, region.ops, known, others=ones)
        found.append(_named(np.asarray(result, np.float64), dtype))
    gate = next((i for i, name in enumerate(found) if name not in (None, "identity")), None)
    if gate is not None:
        return Activation(f"{found[gate]} gate"), gate
    return Activation("product" if set(found) == {"identity"} else _spelled(region.ops)), 0


def prove(program: Program, region: Region, pre: Ref, end: Ref) -> Scalar:
    """Proves what a region computes from a pre-activation at one of the values that are read."""

    def outside(operand: Operand) -> Any:
        view = program.seen(operand)
        if view is not None:
            return Parameter(view.leaf) if view.leaf in region.leaves else None
        return constant(program.layout, operand)

    return scalar.describe(program.layout.program, region.ops, pre, outside, end)


def _slopes(program: Program, region: Region, pre: Ref) -> tuple[Slope, Slope] | None:
    """The slopes below and above zero, if all ends are linear on either side of it alike."""
    found = [prove(program, region, pre, end).two_slopes for end in region.reads.values()]
    if found[0] is None or any(other != found[0] for other in found):
        return None
    paths = {leaf: program.network.paths[leaf] for leaf in region.leaves}
    below, above = (_as_slope(slope, paths) for slope in found[0])
    return None if below is None or above is None else (below, above)


def _as_slope(value: Coefficient, paths: dict[int, Path]) -> Slope | None:
    """A proven slope as one number or one parameter, None where it is neither exactly."""
    number = as_number(value)
    if number is not None:
        return Slope(float(number)) if Fraction(float(number)) == number else None
    alone = [key for key, factor in value.items() if len(key) == 1 and factor == 1]
    return Slope(0.0, paths[alone[0][0]]) if len(value) == len(alone) == 1 else None


def _named(values: np.ndarray, dtype: Any, coarse: bool = False) -> str | None:
    """The name of the function that takes these values on the grid, None if it has none."""
    coarse = coarse or jnp.finfo(dtype).bits < 32
    for name, want in _known(str(jnp.dtype(dtype))):
        if np.allclose(values, want, rtol=1e-2 if coarse else 1e-5, atol=1e-6):
            return name
    return None


def _evaluate(
    program: Program, ops: tuple[Op, ...], known: dict[int, Any], others: Any = None
) -> Any:
    """Evaluates an elementwise region on vectors; layout is left out.

    Args:
      program: the program.
      ops: the region's operations.
      known: what the values that it starts from are, ``(n,)`` each.
      others: what values are, ``(n,)``, that are neither known nor constant.
    """
    env = dict(known)
    shape = next(iter(known.values())).shape

    def read(operand: Operand) -> Any:
        if isinstance(operand, Ref) and operand.id in env:
            return env[operand.id]
        value = constant(program.layout, operand)
        if value is None:
            return others
        return jnp.broadcast_to(value, shape) if program.shape(operand) else value

    for op in ops:
        if op.name in LAYOUT or op.name in PLACES:
            env[op.outputs[0].id] = read(op.inputs[0])
        else:
            env[op.outputs[0].id] = op.bind(*map(read, op.inputs))[0]
    return jnp.broadcast_to(env[ops[-1].outputs[0].id], shape)


@functools.cache
def _known(dtype: str) -> tuple[tuple[str, np.ndarray], ...]:
    every = jax.jit(lambda z: [f(z) for _, f in _KNOWN])(jnp.asarray(_GRID, dtype))
    names = (name for name, _ in _KNOWN)
    return tuple(zip(names, (np.asarray(y, np.float64) for y in every), strict=True))


def _spelled(ops: tuple[Op, ...]) -> str:
    """A function without a name, by the operations that compute it."""
    names = list(dict.fromkeys(op.name for op in ops if op.name not in LAYOUT))
    return "·".join(names) or "identity"
