"""Where coordinates without their activation join those with it again.

A linear coordinate is made like the others and read like the others, and passes by whatever
bends, scales or shifts coordinates on the way. Elementwise operations between one straight value
(their *root*) and those that read their results are a region; behind it entries of linear
coordinates are those of the root.
"""

from typing import NamedTuple

from linjax.dims.layout import Layout, number
from linjax.dims.rules import elementwise
from linjax.dims.values import Role, Source
from linjax.program.flat import Op, Ref

_APART = {Role.POOLED, Role.FILTERED, Role.PAIRED, Role.SUMMED, Role.BESIDE}


class Merge(NamedTuple):
    """An operand whose entries at linear coordinates are those of an earlier value."""

    op: int
    place: int
    root: int


def merges(layout: Layout, dim: int) -> tuple[Merge, ...] | None:
    """Returns where the linear coordinates of a dimension join, None where they can't pass.

    Multiplications by numbers that are the same for all coordinates are done to linear ones,
    too (a mean over space), unless they are steps of an activation.
    """
    if any(mark.role in _APART for mark in layout.marks.get(dim, ())) or not _once(layout, dim):
        return None
    found = _merges(layout, dim, passing=False)
    return _merges(layout, dim, passing=True) if found is None else found


def _merges(layout: Layout, dim: int, passing: bool) -> tuple[Merge, ...] | None:
    roles = {mark.op: mark.role for mark in layout.marks[dim] if mark.operand < 0}
    roots: dict[int, int] = {}
    found: list[Merge] = []
    for op in layout.users[dim]:
        met = _met(layout, op, dim)
        if not met and roles.get(number(op)) is not Role.MADE:
            continue
        if layout.loops[number(op)] or op.scan is not None or any(i not in roots for _, i in met):
            return None  # in a loop, or not made by parameters
        role = roles.get(number(op))
        alike = len({roots[i] for _, i in met}) == 1 and op.name in elementwise.RULES
        if alike and (role is not Role.LINEAR or (passing and not _masked(layout, op, dim))):
            root = roots[met[0][1]]
            shapes = {layout.program.avals[i].shape for i in (root, number(op))}
            if len(shapes) > 1:
                return None
            roots.update({ref.id: root for ref in op.outputs})
            continue
        if role not in (Role.LINEAR, Role.MADE, None):
            return None
        found += [Merge(number(op), place, roots[i]) for place, i in met if roots[i] != i]
        roots.update({r.id: r.id for r in op.outputs if dim in layout.values[r.id].dims()})
    return tuple(found)


def _met(layout: Layout, op: Op, dim: int) -> list[tuple[int, int]]:
    """Places and numbers of the operands that have coordinates of a dimension."""
    refs = [(place, o.id) for place, o in enumerate(op.inputs) if isinstance(o, Ref)]
    return [(place, i) for place, i in refs if _differs(layout, i, dim)]


def _differs(layout: Layout, value: int, dim: int) -> bool:
    """Whether data differ from coordinate to coordinate."""
    return dim in layout.values[value].differing()


def _masked(layout: Layout, op: Op, dim: int) -> bool:
    """Whether an operation takes further data, the same for all coordinates."""
    data = [
        o for o in op.inputs if isinstance(o, Ref) and layout.values[o.id].source is Source.DATA
    ]
    return any(not _differs(layout, o.id, dim) for o in data)


def _once(layout: Layout, dim: int) -> bool:
    """Whether no leaf has a dimension twice, as a recurrent kernel has."""
    return all(sum(d == dim for span in spans for d in span.dims()) < 2 for spans in layout.leaves)
