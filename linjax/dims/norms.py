"""Batch norms of a network, and the leaves that are their running statistics."""

from typing import Any, NamedTuple

from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.values import Source
from linjax.program.flat import Op, Ref


class Norm(NamedTuple):
    """A batch norm: ``(x − mean) · 1/sqrt(var + …)``.

    Attributes:
      value: number of the value x.
      axis: along which its coordinates stand.
      mean: leaf of the running means.
      var: leaf of the running variances.
    """

    value: int
    axis: int
    mean: int
    var: int


def batch_norms(network: Network) -> list[Norm]:
    """Finds ``(x − mean)`` that is multiplied by ``1/sqrt(var)``, both of them leaves."""
    layout, found = network.layout, []
    for op in layout.program.all_ops():
        if op.name not in ("mul", "div") or layout.steps[number(op)]:
            continue
        for place in (0, 1):
            centred = _behind(layout.makers, op.inputs[place])
            variances = _variances(network, op.inputs[1 - place])
            if centred is None or centred.name != "sub" or len(variances) != 1:
                continue
            x, mean = (layout.operand(centred, k) for k in (0, 1))
            if x.source is not Source.DATA or mean.leaf is None:
                continue
            spans = layout.leaves[mean.leaf]
            dims = [d for s in spans for d in s.dims()]
            axis = next((n for n, s in enumerate(x.spans) if s.dims() == dims), None)
            if axis is not None and isinstance(centred.inputs[0], Ref):
                (var,) = variances
                found.append(Norm(centred.inputs[0].id, axis, mean.leaf, var))
    return found


def _behind(makers: dict[int, Op], operand: Any) -> Op | None:
    """What makes an operand."""
    return makers.get(operand.id) if isinstance(operand, Ref) else None


def _variances(network: Network, operand: Any) -> set[int]:
    """Leaves whose (inverse) square root a value of parameters is made with."""
    layout = network.layout
    op = _behind(layout.makers, operand)
    if op is None or layout.values[number(op)].source is not Source.PARAMETER:
        return set()
    if op.name in ("rsqrt", "sqrt", "pow"):
        return _leaves(network, op)
    return set().union(*(_variances(network, o) for o in op.inputs))


def _leaves(network: Network, op: Op) -> set[int]:
    found: set[int] = set()
    for place, operand in enumerate(op.inputs):
        held = network.layout.operand(op, place)
        if held.leaf is not None:
            found.add(held.leaf)
        elif (before := _behind(network.layout.makers, operand)) is not None:
            found |= _leaves(network, before)
    return found
