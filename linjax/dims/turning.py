"""Whether another basis of a dimension passes through what parameters go through on their way.

A new basis is written into leaves. Of a kernel that is masked, clipped or made positive entry by
entry the function would then do so to other directions, so that nothing is left of the old ones.
"""

import jax.numpy as jnp

from linjax.dims.layout import LAYOUT, SAME, Held, Layout
from linjax.dims.survey import is_zero
from linjax.dims.values import Source
from linjax.program.flat import Const, Op, Operand, Ref

_PLAIN = LAYOUT | SAME | frozenset((
    "neg", "expand_dims", "concatenate", "pad", "slice", "split", "dynamic_slice", "gather",
    "dot_general", "scan", "sharding_constraint", "mesh_cast", "reshard", "optimization_barrier",
))  # fmt: skip
"""What is linear, and the same for each coordinate."""


def unturned(layout: Layout) -> set[int]:
    """Dimensions along which something that parameters alone go through isn't linear and alike."""
    found: set[int] = set()
    for op in layout.program.all_ops():
        held = [layout.operand(op, k) for k in range(len(op.inputs))]
        if all(h.source is not Source.DATA for h in held):
            own = [h for h in held if h.source is Source.PARAMETER]
            dims = {dim for h in own for dim in h.dims() if _differs(h, dim)}
            found |= {dim for dim in dims - found if not _turns(layout, op, held, dim)}
    return found


def _differs(held: Held, dim: int) -> bool:
    pairs = zip(held.spans, held.varies, strict=True)
    return any(varies and dim in span.dims() for span, varies in pairs)


def _turns(layout: Layout, op: Op, held: list[Held], dim: int) -> bool:
    differ = [_differs(own, dim) for own in held]
    moves = [
        (along and own.source is Source.PARAMETER) or _zero(layout, operand)
        for own, along, operand in zip(held, differ, op.inputs, strict=True)
    ]
    if op.name in ("convert_element_type", "reduce_precision"):
        after = layout.program.avals[op.outputs[0].id].dtype
        return bool(jnp.issubdtype(after, jnp.inexact)) and jnp.finfo(after).bits >= 16
    if op.name in ("add", "sub", "add_any"):
        return all(moves)
    if op.name == "mul":
        return sum(differ) == 1
    if op.name == "div":
        return not differ[1]
    if op.name == "select_n":
        return not differ[0] and all(moves[1:])
    return op.name in _PLAIN


def _zero(layout: Layout, operand: Operand) -> bool:
    """Whether a value is zero everywhere."""
    while isinstance(operand, Ref) and operand.id in layout.makers:
        op = layout.makers[operand.id]
        if op.name not in LAYOUT | SAME | {"convert_element_type"}:
            return False
        operand = op.inputs[0]
    return isinstance(operand, Const) and is_zero(operand.value)
