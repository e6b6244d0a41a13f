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


class Sides(NamedTuple):
    """The two sides of products that sum over a dimension.

    Attributes:
      leaves: those on the other side than the first point, where any basis will do for the
        dimension; none where only coordinates can be chosen.
      told: places among the points of those that tell what is lost: of two that meet, one.
    """

    leaves: tuple[int, ...]
    told: tuple[int, ...]


def sides(layout: Layout, dim: int, points: tuple[int, ...], fixed: bool) -> Sides:
    """Tells queries from keys.

    A product ``q kᵀ`` is the same with ``q B`` and ``k B⁻ᵀ``. That asks for two sides: what is
    done to queries and keys is linear, the same for each coordinate, or adds parameters; and
    nothing, no leaf either, stands on both sides at once. What one side loses the other loses with
    it, in every product of the two.

    Args:
      layout: the network's dimensions.
      dim: the dimension that products of two values sum over.
      points: numbers of the values that such products take, and of others that kernels read.
      fixed: whether only coordinates can be chosen.
    """
    side = {} if fixed else _sides(layout, dim, points[0])
    leaves = enumerate(layout.program.inputs[: len(layout.leaves)])
    own = {n: side.get(ref.id) for n, ref in leaves if _along(layout, ref.id, dim)}
    if side and None not in own.values() and side.keys() >= set(points):
        told = tuple(n for n, point in enumerate(points) if not side[point])
        return Sides(tuple(n for n, across in own.items() if across), told)
    pairs = [set(_own(layout, dim, op.inputs)) for op in _pairing(layout, dim)]
    chosen = set(points).difference(*pairs)
    for pair in pairs:
        if not pair & chosen:
            chosen.add(next(point for point in points if point in pair))
    return Sides((), tuple(n for n, point in enumerate(points) if point in chosen))


def _sides(layout: Layout, dim: int, point: int) -> dict[int, bool]:
    """Values that are linked to one, and whether on the other side; none where there aren't two."""
    if {mark.role for mark in layout.marks[dim]} - STRAIGHT or _varies(layout, dim):
        return {}
    around: dict[int, list[tuple[int, bool]]] = {}
    for link in _links(layout, dim):
        around.setdefault(link.one, []).append((link.other, link.across))
        around.setdefault(link.other, []).append((link.one, link.across))
    found, waiting = {point: False}, [point]
    while waiting:
        value = waiting.pop()
        for other, across in around.get(value, ()):
            side = found[value] ^ across
            if other not in found:
                waiting.append(other)
            if found.setdefault(other, side) is not side:
                return {}
    return found


def _along(layout: Layout, value: int, dim: int) -> bool:
    return any(dim in span.dims() for span in layout.values[value].spans)


def _varies(layout: Layout, dim: int) -> bool:
    """Whether constants tell the coordinates apart."""
    return any(
        differs and dim in span.dims()
        for held in layout.constants.values()
        for span, differs in zip(held.spans, held.varies, strict=True)
    )


def _own(layout: Layout, dim: int, operands: Iterable[object]) -> list[int]:
    """Values among operands that have a dimension."""
    return [o.id for o in operands if isinstance(o, Ref) and _along(layout, o.id, dim)]


def _pairing(layout: Layout, dim: int) -> Iterable[Op]:
    """Operations that sum over a dimension of two values."""
    pairing = {mark.op for mark in layout.marks[dim] if mark.role is Role.PAIRED}
    return (op for op in layout.program.all_ops() if op.scan is None and number(op) in pairing)


def _links(layout: Layout, dim: int) -> Iterable[_Link]:
    pairing = {number(op) for op in _pairing(layout, dim)}
    for op in layout.program.all_ops():
        if op.scan is not None:
            same = (_own(layout, dim, pair) for pair in _handed(op))
            yield from (_Link(pair[0], pair[1], False) for pair in same if len(pair) == 2)
        elif number(op) in pairing:
            one, other = _own(layout, dim, op.inputs)
            yield _Link(one, other, True)
            for made in _own(layout, dim, op.outputs):  # on either side: nothing may change
                yield from (_Link(one, made, False), _Link(other, made, False))
        else:
            first, *others = _own(layout, dim, (*op.inputs, *op.outputs)) or [-1]
            yield from (_Link(first, other, False) for other in others)


def _handed(op: Op) -> Iterable[tuple[object, object]]:
    """What a scan's body is given, hands on, and gives."""
    assert op.scan is not None
    body, carry = op.scan.body, slice(op.scan.consts, op.scan.consts + op.scan.carry)
    yield from zip(op.inputs, body.inputs, strict=True)
    yield from zip(body.outputs, op.outputs, strict=True)
    yield from zip(body.outputs[: op.scan.carry], body.inputs[carry], strict=True)
