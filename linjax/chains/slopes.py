"""Per-unit affine maps behind affine maps, such as batch norm in inference, in numbers.

A folded pytree that lacks their parameters has them multiplied into the kernel.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.chains.maps import Scaling, Term
from linjax.errors import StructureError
from linjax.program.pytree import Flat, Path, join

Array = Any

EVALUATED: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
    "neg": np.negative, "sqrt": np.sqrt, "rsqrt": lambda x: 1.0 / np.sqrt(x), "exp": np.exp,
    "square": np.square,
}  # fmt: skip
"""Primitives that the parameters of one may go through."""


def slope_and_offset(scaling: Scaling | None, flat: Flat) -> tuple[Array, Array] | None:
    """Returns a, b of the per-unit affine map ``z ↦ a z + b``; None where there is none."""
    if scaling is None or scaling.leaves[0] not in flat:
        return None
    leaves = {path: np.asarray(flat[path]) for path in scaling.leaves}
    slope, offset = np.ones(1), np.zeros(1)
    for step in scaling.steps:
        value = _evaluate(step.operand, leaves)
        match step.op:
            case "add":
                offset = offset + value
            case "sub":
                offset = offset - value
            case "rsub":
                slope, offset = -slope, value - offset
            case "mul":
                slope, offset = slope * value, offset * value
            case "div":
                slope, offset = slope / value, offset / value
    size = math.prod(leaves[scaling.leaves[0]].shape)
    return np.broadcast_to(slope, (size,)), np.broadcast_to(offset, (size,))


def _evaluate(terms: tuple[Term, ...], leaves: dict[Path, np.ndarray]) -> np.ndarray:
    """Computes an operand from parameters, in float64, ``(units,)``."""
    stack: list[np.ndarray] = []
    for term in terms:
        if term.op == "leaf":
            stack.append(np.asarray(leaves[term.leaf]).astype(np.float64).reshape(-1))
        elif term.op == "constant":
            stack.append(np.asarray(term.value))
        else:
            function = EVALUATED[term.op]
            count = 1 if term.op in ("neg", "sqrt", "rsqrt", "exp", "square") else 2
            arguments = stack[-count:]
            del stack[-count:]
            stack.append(function(*arguments))
    (value,) = stack
    return value


def check_scaling(scaling: Scaling | None, units: int, flat: Flat) -> None:
    """Checks that a per-unit affine map's parameters are there, one entry a unit, or all gone.

    Raises:
      StructureError: naming the first leaf that doesn't fit.
    """
    if scaling is None:
        return
    there = [path for path in scaling.leaves if path in flat]
    if there and len(there) != len(scaling.leaves):
        gone = next(p for p in scaling.leaves if p not in flat)
        raise StructureError(f"{join(gone)}: missing beside {join(there[0])}")
    for path in there:
        if math.prod(jnp.shape(flat[path])) != units:
            raise StructureError(
                f"{join(path)}: shape {jnp.shape(flat[path])}, expected ({units},)"
            )
