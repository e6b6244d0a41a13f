"""Whether another basis of a dimension passes through what parameters go through on their way.

A new basis is written into leaves. Of a kernel that is masked, clipped or made positive entry by
entry the function would then do so to other directions, so that nothing is left of the old ones.
"""

from collections.abc import Iterable

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


def turns(layout: Layout, dim: int) -> bool:
    """Whether all that parameters go through alone is linear, and the same for each coordinate."""
    return all(_turns(layout, op, dim) for op in _of_parameters(layout, dim))


def _of_parameters(layout: Layout, dim: int) -> Iterable[Op]:
    """Operations on parameters alone along some of which a dimension runs."""
    for op in layout.program.all_ops():
        held = [layout.operand(op, k) for k in range(len(op.inputs))]
        own = any(h.source is Source.PARAMETER and _differs(h, dim) for h in held)
        if own and all(h.source is not Source.DATA for h in held):
            yield op


def _differs(held: Held, dim: int) -> bool:
    pairs = zip(held.spans, held.varies, strict=True)
    return any(varies and dim in span.dims() for span, varies in pairs)


def _turns(layout: Layout, op: Op, dim: int) -> bool:
    held = [layout.operand(op, k) for k in range(len(op.inputs))]
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
