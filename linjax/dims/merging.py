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


_LAID_OUT = "reshape transpose broadcast_in_dim squeeze expand_dims slice split"
_KNOWN = frozenset(_LAID_OUT.split()) | elementwise.RULES.keys()


class Merge(NamedTuple):
    """An operand whose entries at linear coordinates are those of earlier values, added."""

    op: int
    place: int
    roots: tuple[int, ...]


def merges(layout: Layout, dim: int) -> tuple[Merge, ...] | None:
    """Returns where the linear coordinates of a dimension join, None where they can't pass.

    Multiplications by numbers that are the same for all coordinates are done to linear ones,
    too (a mean over space), unless they are steps of an activation.
    """
    if any(mark.role in _APART for mark in layout.marks.get(dim, ())) or not _once(layout, dim):
        return None
    found = _merges(layout, dim, passing=False)
    return _merges(layout, dim, passing=True) if found is None else found


def around(layout: Layout, dim: int, sources: dict[int, int]) -> tuple[Merge, ...] | None:
    """Returns where what passes by everything joins, None where something isn't passed.

    Where results of products of the same features meet, as in a gated layer, what passes by one
    of them passes by the whole.

    Args:
      layout: the network's dimensions.
      dim: one of them.
      sources: by product that makes it, which features it reads.
    """
    if any(mark.role in _APART for mark in layout.marks.get(dim, ())):
        return None
    return _merges(layout, dim, passing=True, sources=sources)


def _merges(
    layout: Layout, dim: int, passing: bool, sources: dict[int, int] | None = None
) -> tuple[Merge, ...] | None:
    roles = {mark.op: mark.role for mark in layout.marks[dim] if mark.operand < 0}
    roots: dict[int, tuple[int, ...]] = {}
    read: dict[int, frozenset[int]] = {}
    found: list[Merge] = []
    for op in layout.users[dim]:
        met = operands(layout, op, dim)
        role = roles.get(number(op))
        if not met and role is not Role.MADE:
            continue
        if layout.steps[number(op)] or op.scan is not None or any(i not in roots for _, i in met):
            return None  # in a loop, or not made by parameters
        own = frozenset().union(*(read[i] for _, i in met))
        if role is Role.MADE and sources is not None:
            own |= {sources[number(op)]}
        read.update({ref.id: own for ref in op.outputs})
        several = {roots[i] for _, i in met}
        alike = len(several) == 1 and op.name in elementwise.RULES
        bent = role is not Role.LINEAR or any(roots[i] != (i,) for _, i in met)
        mates = sources is not None and len(own) == 1 and len(several) > 1 and bent
        passes = role is not Role.LINEAR or (passing and not _masked(layout, op, dim))
        if (alike and passes) or (mates and op.name in elementwise.RULES):
            joined = tuple(dict.fromkeys(r for _, i in met for r in roots[i]))
            shapes = {layout.program.avals[i].shape for i in (*joined, number(op))}
            if len(shapes) > 1:
                return None
            roots.update({ref.id: joined for ref in op.outputs})
            continue
        if role not in (Role.LINEAR, Role.MADE, None):
            return None
        if sources is not None and role is Role.LINEAR and op.name not in _KNOWN:
            return None
        found += [Merge(number(op), place, roots[i]) for place, i in met if roots[i] != (i,)]
        roots.update({r.id: (r.id,) for r in op.outputs if dim in layout.values[r.id].dims()})
    return tuple(found)


def operands(layout: Layout, op: Op, dim: int) -> list[tuple[int, int]]:
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
