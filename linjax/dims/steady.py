"""Whether constants pass from where a dimension is made to where it is read."""

import math
from collections.abc import Iterable

from linjax.dims.layout import LAID_OUT, SAME, Layout, constant, number
from linjax.dims.merging import Merge, operands
from linjax.dims.values import Role
from linjax.program.flat import Op

Factors = dict[int, float] | None
"""By product that makes coordinates, what a constant that is added to its result is multiplied by
on its way; None where that isn't the same for all entries."""

_MOVING = {*LAID_OUT, *SAME, "broadcast_in_dim", "slice", "split", "rev", "concatenate"}
"""Operations that leave entries as they are."""
CLOSE = 1e-6


def steady(layout: Layout, dim: int, joined: tuple[Merge, ...]) -> bool:
    """Whether what is added to linear coordinates where they are made arrives where they are read.

    Linear coordinates have no bias: what these lack is given to their readers' biases, if it is the
    same for every entry that is read. Masks, weights made of data, sums over places and zeros
    beside entries change it; a mean doesn't.

    Args:
      layout: the network's dimensions.
      dim: one whose linear coordinates can pass.
      joined: where they join.
    """
    joins = {(own.op, own.place): own.roots for own in joined}
    roles: dict[int, set[Role]] = {}
    for mark in layout.marks[dim]:
        roles.setdefault(mark.op, set()).add(mark.role)
    found: dict[int, Factors] = {}
    for op in layout.users[dim]:
        own = {
            place: _sum(found.get(root) for root in joins.get((number(op), place), (value,)))
            for place, value in operands(layout, op, dim)
        }
        mine = roles.get(number(op), set())
        if Role.READ in mine and (_bordered(op) or not all(map(_whole, own.values()))):
            return False
        passed = {number(op): 1.0} if Role.MADE in mine else _passed(op, own, layout)
        found |= dict.fromkeys((ref.id for ref in op.outputs), passed)
    return True


def _whole(factors: Factors) -> bool:
    """Whether constants arrive as they are."""
    return factors is not None and all(abs(f - 1.0) < CLOSE for f in factors.values())


def _sum(parts: Iterable[Factors]) -> Factors:
    total: dict[int, float] = {}
    for factors in parts:
        if factors is None:
            return None
        for op, factor in factors.items():
            total[op] = total.get(op, 0.0) + factor
    return total


def _times(factors: Factors, scale: float | None) -> Factors:
    if factors is None or scale is None:
        return None
    return {op: scale * factor for op, factor in factors.items()}


def _bordered(op: Op) -> bool:
    """Whether an operation reads zeros around what there is."""
    return any(pad != (0, 0) for pad in op.params.get("padding", ()))


def _passed(op: Op, own: dict[int, Factors], layout: Layout) -> Factors:
    """The factors of an operation's results, by those of the operands with the coordinates."""
    parts = list(own.values())
    if op.name in _MOVING:
        alike = all(part == parts[0] for part in parts)
        return parts[0] if alike and len(parts) == len(op.inputs) else None
    if op.name in ("add", "add_any"):
        return _sum(parts)
    if op.name == "sub":
        return _sum(_times(part, -1.0 if place else 1.0) for place, part in own.items())
    if len(own) > 1:
        return None
    ((place, part),) = own.items()
    if op.name == "neg":
        return _times(part, -1.0)
    if op.name == "reduce_sum":
        shape = layout.program.shape(op.inputs[place])
        return _times(part, float(math.prod(shape[n] for n in op.params["axes"])))
    if op.name in ("mul", "div") and (op.name == "mul" or place == 0):
        scale = constant(layout, op.inputs[1 - place])
        return _times(part, scale if op.name == "mul" or not scale else 1.0 / scale)
    return None
