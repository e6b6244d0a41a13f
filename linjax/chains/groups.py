"""The affine maps that a site's units are made by: single ones, sums of several, parts of kernels.

``z = v W + b + v' W'`` has one unit for each pair of columns of W and W'. A unit goes with both
columns, so the maps count as one, which reads ``(v, v')`` by a kernel in two parts.
"""

from typing import NamedTuple

from linjax.chains.maps import Part, Scaling
from linjax.chains.products import Map, Program
from linjax.chains.scaling import look_behind
from linjax.dims.layout import same_value
from linjax.dims.sites import Site
from linjax.dims.span import Span
from linjax.program.flat import Op, Ref


class Group(NamedTuple):
    """Maps that make a pre-activation together.

    Attributes:
      map: the first, with the pre-activation of all.
      terms: further maps, of other features, whose results are added to its.
      scaling: the per-unit affine map between bias and pre-activation, None without one.
    """

    map: Map
    terms: tuple[Map, ...] = ()
    scaling: Scaling | None = None


def find_groups(program: Program, site: Site) -> list[Group] | None:
    """Returns what makes a site's units, None where it isn't all affine maps."""
    found: list[Group] = []
    for maker in sorted(site.makers, key=lambda m: program.places.get(m.op, -1)):
        whole = program.maps.get(program.places.get(maker.op, -1))
        if whole is None:
            return None
        if _axis(program, whole).dim == site.dim:
            behind = look_behind(program, whole)
            found.append(Group(whole) if behind is None else Group(*behind[:1], (), behind.scaling))
            continue
        parts = program.apart(whole, site.width) if whole.part == Part() else None
        if parts is None or any(_axis(program, m).dim != site.dim for m in parts):
            return None
        found += map(Group, parts)
    return _summed(program, site, found) if _complete(found) else None


def _axis(program: Program, own: Map) -> Span:
    """The axis of a map's units."""
    return program.layout.values[own.results[0].id].spans[own.axis]


def _complete(groups: list[Group]) -> bool:
    """Whether of every kernel that is cut all parts are there."""
    parts: dict[int, set[int]] = {}
    for own, *_ in groups:
        parts.setdefault(own.leaf, set()).add(own.part.number)
    return all(parts[own.leaf] == set(range(own.part.of)) for own, *_ in groups)


def _summed(program: Program, site: Site, groups: list[Group]) -> list[Group]:
    """Joins maps of different features whose results are added and nothing else."""
    plain = [g for g in groups if g.scaling is None and g.map.part == Part()]
    left = [g for g in groups if g not in plain]
    at = {g.map.results[0].id: g for g in plain}
    for op in program.layout.users[site.dim]:
        pair = [at.get(o.id) if isinstance(o, Ref) else None for o in op.inputs]
        if op.name not in ("add", "add_any") or None in pair or pair[0] is pair[1]:
            continue
        own = sorted((g for g in pair if g is not None), key=lambda g: g.map.at)
        one, two = (g.map for g in own)
        here = program.places[op.outputs[0].id]
        once = all(program.only(m.results[0]) == here for m in (one, two))
        if not once or one.axis != two.axis or same_value(program.layout, one.data, two.data):
            continue
        for m in (one, two):
            del at[m.results[0].id]
        joined = _joined(program, op, own)
        at[joined.map.results[0].id] = joined
    return sorted([*left, *at.values()], key=lambda g: (g.map.at, g.map.part))


def _joined(program: Program, op: Op, own: list[Group]) -> Group:
    """One group of two. The first with a bias leads: it is where a bias has its place."""
    lead = next((g for g in own if g.map.bias is not None), own[0])
    result = lead.map._replace(results=(op.outputs[0],))
    if lead.map.bias is None:
        result = program.biased(result)
    others = [m for g in own for m in (g.map, *g.terms) if m.at != lead.map.at]
    return Group(result, tuple(others))
