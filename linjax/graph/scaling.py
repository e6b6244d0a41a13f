"""Per-unit affine maps behind affine maps, such as batch norm in inference.

A folded pytree that lacks their parameters has them multiplied into the kernel.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.errors import StructureError
from linjax.graph import activation
from linjax.graph.maps import Path, Rescaling, Scaling, join
from linjax.graph.program import Op, Operand, Program, Ref
from linjax.graph.pytree import Flat
from linjax.graph.spreads import Spread, closure, evaluate, find_spreads, named
from linjax.graph.structure import Leaf
from linjax.graph.views import Views, operand_id

Array = Any


class Context(NamedTuple):
    """What every step of the analysis looks up."""

    program: Program
    views: Views
    leaves: tuple[Leaf, ...]
    readers: dict[int, list[int]]
    spreads: dict[int, Spread]

    @classmethod
    def of(cls, program: Program, views: Views, leaves: tuple[Leaf, ...]) -> "Context":
        """Gathers it for a program."""
        return cls(program, views, leaves, program.readers(), find_spreads(program, views))

    def paths(self, leaves: frozenset[int]) -> tuple[Path, ...]:
        """Paths of leaves by index, in the pytree's order."""
        return tuple(self.leaves[i].path for i in sorted(leaves))

    def only_here(self, refs: set[int], ops: set[int]) -> bool:
        """Whether these values are read by each other and by the given operations only."""
        made = {
            op.outputs[0].id: i for i, op in enumerate(self.program.ops) if len(op.outputs) == 1
        }
        inside = ops | {made[ref] for ref in refs if ref in made}
        return all(set(self.readers.get(ref, ())) <= inside for ref in refs)


class Behind(NamedTuple):
    """A per-unit affine map behind a bias.

    Attributes:
      scaling: what it computes.
      pre: its result, the pre-activation.
      ops: indices of its operations.
    """

    scaling: Scaling
    pre: Ref
    ops: tuple[int, ...]


def look_behind(context: Context, start: Ref, axis: int) -> Behind | None:
    """Follows an affine map's result through the per-unit affine map behind it, if there is one."""
    program, readers = context.program, context.readers
    width = program.shape(start)[axis]
    value, found = start, None
    steps: list[Rescaling] = []
    ops: list[int] = []
    leaves: frozenset[int] = frozenset()
    operands: list[Operand] = []
    while len(readers.get(value.id, ())) == 1 and readers[value.id][0] >= 0:
        index = readers[value.id][0]
        op = program.ops[index]
        step = _step(context, op, value, axis, width)
        if step is None:
            break
        rescaling, own, operand = step
        if not steps and rescaling is not None and _plain_bias(rescaling, own):
            return None
        value, ops = op.outputs[0], [*ops, index]
        operands += [] if operand is None else [operand]
        steps += [] if rescaling is None else [rescaling]
        leaves |= own
        spread = closure(program, operands, context.spreads)
        if own and context.only_here(spread, set(ops)):
            found = Behind(Scaling(tuple(steps), context.paths(leaves)), value, tuple(ops))
    return found


def _plain_bias(step: Rescaling, leaves: frozenset[int]) -> bool:
    return step.op == "add" and len(leaves) == 1 and len(step.operand) == 1


def _step(
    context: Context, op: Op, value: Ref, axis: int, width: int
) -> tuple[Rescaling | None, frozenset[int], Operand | None] | None:
    """One operation of a per-unit affine map: what it does, its leaves, its other operand."""
    if op.name == "convert_element_type":
        avals = context.program.avals
        same = avals[op.outputs[0].id].dtype == avals[value.id].dtype
        return (None, frozenset(), None) if same else None
    if op.name not in ("add", "sub", "mul", "div") or list(op.inputs).count(value) != 1:
        return None
    other = op.inputs[1] if op.inputs[0] == value else op.inputs[0]
    kind = op.name
    if op.inputs[1] == value:
        if kind == "div":
            return None
        kind = "rsub" if kind == "sub" else kind
    spread = context.spreads.get(operand_id(other))
    if spread is not None:
        if (spread.axis, spread.width) != (axis, width) or spread.terms is None:
            return None
        paths = [leaf.path for leaf in context.leaves]
        return Rescaling(kind, named(spread.terms, paths)), spread.leaves, other
    number = activation.constant(context.program, other)
    if number is None:
        return None
    terms = named((("constant", 0, float(number)),), [])
    return Rescaling(kind, terms), frozenset(), None


def slope_and_offset(scaling: Scaling | None, flat: Flat) -> tuple[Array, Array] | None:
    """Returns a, b of the per-unit affine map ``z ↦ a z + b``; None where there is none."""
    if scaling is None or scaling.leaves[0] not in flat:
        return None
    leaves = {path: np.asarray(flat[path]) for path in scaling.leaves}
    slope, offset = np.ones(1), np.zeros(1)
    for step in scaling.steps:
        value = evaluate(step.operand, leaves)
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
