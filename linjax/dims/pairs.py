"""Queries and keys: which parameters stand on which side of the products that pair them."""

from collections.abc import Iterable
from typing import NamedTuple

from linjax.dims.layout import Layout, number
from linjax.dims.values import Role
from linjax.program.flat import Op, Ref

STRAIGHT = frozenset((Role.MADE, Role.PAIRED, Role.LINEAR, Role.SHIFTED))
"""What may be done to queries and keys whose basis may change."""


class _Link(NamedTuple):
    """Two values with a dimension, on the same side of its products or on opposite ones."""

    one: int
    other: int
    across: bool


def opposite(layout: Layout, dim: int, point: int) -> tuple[int, ...]:
    """Leaves on the other side than a value, where any basis will do for a dimension.

    A product ``q kᵀ`` is the same with ``q B`` and ``k B⁻ᵀ``. That asks for two sides: what is
    done to queries and keys is linear, the same for each coordinate, or adds parameters; and
    nothing, no leaf either, stands on both sides at once.

    Args:
      layout: the network's dimensions.
      dim: the dimension that products of two values sum over.
      point: number of a value that such a product takes.

    Returns:
      Numbers of leaves; none where only coordinates can be chosen.
    """
    if {mark.role for mark in layout.marks[dim]} - STRAIGHT or _varies(layout, dim):
        return ()
    around: dict[int, list[tuple[int, bool]]] = {}
    for link in _links(layout, dim):
        around.setdefault(link.one, []).append((link.other, link.across))
        around.setdefault(link.other, []).append((link.one, link.across))
    sides, waiting = {point: False}, [point]
    while waiting:
        value = waiting.pop()
        for other, across in around.get(value, ()):
            side = sides[value] ^ across
            if other not in sides:
                waiting.append(other)
            if sides.setdefault(other, side) is not side:
                return ()
    leaves = enumerate(layout.program.inputs[: len(layout.leaves)])
    own = {n: sides.get(ref.id) for n, ref in leaves if _along(layout, ref.id, dim)}
    return () if None in own.values() else tuple(n for n, side in own.items() if side)


def _along(layout: Layout, value: int, dim: int) -> bool:
    return any(dim in span.dims() for span in layout.values[value].spans)


def _varies(layout: Layout, dim: int) -> bool:
    """Whether constants tell the coordinates apart."""
    return any(
        differs and dim in span.dims()
        for held in layout.constants.values()
        for span, differs in zip(held.spans, held.varies, strict=True)
    )


def _links(layout: Layout, dim: int) -> Iterable[_Link]:
    pairing = {mark.op for mark in layout.marks[dim] if mark.role is Role.PAIRED}

    def own(operands: Iterable[object]) -> list[int]:
        return [o.id for o in operands if isinstance(o, Ref) and _along(layout, o.id, dim)]

    for op in layout.program.all_ops():
        if op.scan is not None:
            same = (own(pair) for pair in _handed(op))
            yield from (_Link(pair[0], pair[1], False) for pair in same if len(pair) == 2)
        elif number(op) in pairing:
            one, other = own(op.inputs)
            yield _Link(one, other, True)
            for made in own(op.outputs):  # on either side: nothing may change
                yield from (_Link(one, made, False), _Link(other, made, False))
        else:
            first, *others = own((*op.inputs, *op.outputs)) or [-1]
            yield from (_Link(first, other, False) for other in others)


def _handed(op: Op) -> Iterable[tuple[object, object]]:
    """What a scan's body is given, hands on, and gives."""
    assert op.scan is not None
    body, carry = op.scan.body, slice(op.scan.consts, op.scan.consts + op.scan.carry)
    yield from zip(op.inputs, body.inputs, strict=True)
    yield from zip(body.outputs, op.outputs, strict=True)
    yield from zip(body.outputs[: op.scan.carry], body.inputs[carry], strict=True)
