"""Sums of affine maps of different features, which have their units together.

``z = v W + b + v' W'`` has one unit for each pair of columns of W and W'. A unit goes with both
columns, so the maps count as one, which reads ``(v, v')`` by a kernel in two parts.
"""

from collections.abc import Callable
from typing import NamedTuple

from linjax.graph.dots import Dot
from linjax.graph.program import Operand, Program, Ref

Start = tuple[int | None, dict[int, int], Ref]
"""A map's bias leaf, the unit axes of its values, and its pre-activation."""


class Sums(NamedTuple):
    """Affine maps as they stand once sums have been taken for one map each.

    Attributes:
      starts: where each map's units start, by name; a sum's under the name of its first map.
      terms: names of a sum's further maps, by that name.
      joins: indices of the additions.
    """

    starts: dict[str, Start]
    terms: dict[str, tuple[str, ...]]
    joins: frozenset[int]


def find_sums(
    program: Program,
    dots: dict[str, Dot],
    readers: dict[int, list[int]],
    starts: dict[str, Start],
    left: frozenset[str],
    same: Callable[[Operand, Operand], bool],
    bias: Callable[[Ref, int], Start],
) -> Sums:
    """Joins affine maps whose results are added and nothing else.

    Args:
      program: the program.
      dots: its affine maps' products by name.
      readers: indices of the operations that read each value.
      starts: where each map's units start.
      left: names of maps that can't be parts of a sum.
      same: whether two operands are the same features: maps of these aren't taken for a sum.
      bias: follows a sum to a bias.
    """
    starts, terms, joins = dict(starts), dict[str, tuple[str, ...]](), set[int]()
    order = {name: index for index, name in enumerate(dots)}
    at = {pre.id: name for name, (_, _, pre) in starts.items() if name not in left}
    for index, op in enumerate(program.ops):
        pair = [at.get(o.id) if isinstance(o, Ref) else None for o in op.inputs]
        if op.name not in ("add", "add_any") or None in pair or len(set(pair)) < 2:
            continue
        names = sorted((name for name in pair if name is not None), key=order.__getitem__)
        leaves, axes, pres = zip(*map(starts.__getitem__, names), strict=True)
        along = {own[pre.id] for own, pre in zip(axes, pres, strict=True)}
        alike = same(*(dots[name].operand for name in names))
        if alike or len(along) > 1 or any(readers[pre.id] != [index] for pre in pres):
            continue
        (axis,), out = along, op.outputs[0]
        # The first with a bias leads: it is where a bias of the sum has its place.
        lead = next((n for n, leaf in zip(names, leaves, strict=True) if leaf is not None), None)
        found: Start = (None, {out.id: axis}, out) if lead is not None else bias(out, axis)
        lead = names[0] if lead is None else lead
        leaf = found[0] if starts[lead][0] is None else starts[lead][0]
        joins.add(index)
        for pre in pres:
            del at[pre.id]
        starts[lead] = leaf, axes[0] | axes[1] | found[1], found[2]
        at[found[2].id] = lead
        others = (other for name in names for other in (name, *terms.pop(name, ())))
        terms[lead] = tuple(name for name in others if name != lead)
    return Sums(starts, terms, frozenset(joins))
