"""Gated layers: units made of the results of several affine maps of the same features.

``h = silu(v W + b) · (v W' + b')`` has one unit for each pair of columns of W and W'. Units go
with both columns, so the pair counts as one layer, with a producer and a mate.
"""

import jax.numpy as jnp
import numpy as np

from linjax.graph import activation, primitives
from linjax.graph.maps import Activation
from linjax.graph.program import Op, Operand, Program, Ref


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

    With all the others set to 1, and the units' parameters too, a gated layer is its gate's
    activation.

    Returns:
      The activation, and which of the pre-activations is the gate (the first without one).
    """
    dtype = program.avals[starts[0].id].dtype
    grid = jnp.asarray(activation.GRID, dtype)
    ones = jnp.ones_like(grid)
    known = {ref.id: ones for ref in starts}
    found = []
    for moving in starts:
        result = activation.evaluate(program, ops, moving, grid, known, others=ones)
        found.append(activation.named(np.asarray(result, np.float64), dtype))
    gate = next((i for i, name in enumerate(found) if name not in (None, "identity")), None)
    if gate is not None:
        return Activation(f"{found[gate]} gate"), gate
    return Activation("product" if set(found) == {"identity"} else activation.spelled(ops)), 0
