"""Gated layers: units made of the results of several affine maps of the same features.

``h = silu(v W + b) · (v W' + b')`` has one unit for each pair of columns of W and W'. Units go
with both columns, so the pair counts as one layer, with a producer and a mate.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.graph import activation, primitives
from linjax.graph.maps import Activation
from linjax.graph.program import Op, Operand, Program, Ref

Array = Any


def origin(made: dict[int, Op], starts: dict[int, str], value: Operand) -> str | None:
    """Returns the affine map whose pre-activation a value is computed from, unit by unit.

    Args:
      made: from :meth:`Program.makers`.
      starts: names of affine maps by the number of their pre-activation.
      value: any operand.
    """
    queue, seen = [value], set()
    while queue:
        operand = queue.pop()
        if not isinstance(operand, Ref) or operand.id in seen:
            continue
        if operand.id in starts:
            return starts[operand.id]
        seen.add(operand.id)
        op = made.get(operand.id)
        if op is not None and (op.name in primitives.ELEMENTWISE or op.name in primitives.LAYOUT):
            queue.extend(op.inputs)
    return None


def same_value(made: dict[int, Op], a: Operand, b: Operand) -> bool:
    """Whether two operands are the same value, cast and laid out alike."""
    while a != b:
        if not isinstance(a, Ref) or not isinstance(b, Ref):
            return False
        x, y = made.get(a.id), made.get(b.id)
        if x is None or y is None or x.name not in primitives.VIEWS:
            return False
        if x.name != y.name or str(x.params) != str(y.params):
            return False
        a, b = x.inputs[0], y.inputs[0]
    return True


def describe(program: Program, ops: list[Op], starts: tuple[Ref, ...]) -> tuple[Activation, int]:
    """Names the function that ``ops`` compute from several pre-activations, and finds the gate.

    With all the others set to 1, a gated layer is its gate's activation.

    Returns:
      The activation, and which of the pre-activations is the gate (the first without one).
    """
    dtype = program.avals[starts[0].id].dtype
    grid = jnp.asarray(activation.GRID, dtype)
    found = []
    for moving in starts:
        values = {ref.id: grid if ref == moving else jnp.ones_like(grid) for ref in starts}
        result = _evaluate(program, ops, values, grid)
        found.append(activation.named(np.asarray(result, np.float64), dtype))
    gate = next((i for i, name in enumerate(found) if name not in (None, "identity")), None)
    if gate is not None:
        return Activation(f"{found[gate]} gate"), gate
    return Activation("product" if set(found) == {"identity"} else activation.spelled(ops)), 0


def _evaluate(program: Program, ops: list[Op], env: dict[int, Array], like: Array) -> Array:
    def read(operand: Operand) -> Array:
        if isinstance(operand, Ref) and operand.id in env:
            return env[operand.id]
        value = activation.constant(program, operand)
        if value is None:
            return jnp.ones_like(like)  # a per-unit parameter
        return jnp.broadcast_to(value, like.shape) if program.shape(operand) else value

    for op in ops:
        if op.name in primitives.LAYOUT:
            env[op.outputs[0].id] = read(op.inputs[0])
        else:
            env[op.outputs[0].id] = op.bind(*map(read, op.inputs))[0]
    return env[ops[-1].outputs[0].id]
