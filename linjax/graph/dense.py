"""Finding dense sites: affine map → elementwise activation → affine maps.

A site is accepted only if every reader of every value between the affine maps is understood;
otherwise it is refused with the reason.
"""

from typing import NamedTuple

from linjax.graph import activation, gates
from linjax.graph.dots import Refused
from linjax.graph.ground import Ground
from linjax.graph.grow import Grown, Interior, Met, grow
from linjax.graph.maps import Affine
from linjax.graph.structure import Leaf, Refusal, Site
from linjax.graph.views import unit_axes


class Found(NamedTuple):
    """Dense sites by their producers' names, their interiors, and what was refused."""

    sites: dict[str, Site]
    interiors: dict[str, Interior]
    refusals: list[Refusal]


def find_sites(ground: Ground, affines: tuple[Affine, ...], leaves: tuple[Leaf, ...]) -> Found:
    """Grows a site from every affine map, or says why there is none."""
    result = Found({}, {}, [])
    mated = {name for others in ground.terms.values() for name in others}
    for affine in affines:
        if affine.name in mated:
            continue
        try:
            group, grown = _together(ground, affines, affine)
        except Refused as refusal:
            result.refusals.append(Refusal(affine.name, str(refusal)))
            continue
        if grown is not None:
            try:
                site, interior = _site(ground, affine, group, grown, leaves)
            except Refused as refusal:
                result.refusals.append(Refusal(affine.name, str(refusal)))
                continue
            result.sites[site.name], result.interiors[site.name] = site, interior
            mated.update(group)
    return result


def _together(
    ground: Ground, affines: tuple[Affine, ...], affine: Affine
) -> tuple[list[str], Grown | None]:
    """Grows a site from an affine map and from those whose results it meets on the way."""
    group = [affine.name]
    while True:
        try:
            return group, grow(ground, group, affine.outputs)
        except Met as met:
            group.append(_mate(ground, affines, group, *met.args))


def _site(
    ground: Ground, affine: Affine, group: list[str], grown: Grown, leaves: tuple[Leaf, ...]
) -> tuple[Site, Interior]:
    """Describes a site; a gated layer goes by the name of its gate."""
    pres = tuple(ground.biases[name][2] for name in group)
    lead = 0
    if len(group) > 1 and ground.behind.keys() & set(group):
        raise Refused("batch norm stands in front of a product of layers")
    if len(group) > 1:
        described, lead = gates.describe(ground.program, grown.ops, pres)
    else:
        paths = {i: leaves[i].path for i in grown.read}
        described = activation.describe(
            ground.program, grown.ops, pres[0], ground.views.leaf, paths,
            grown.interior.reads.values(),
        )  # fmt: skip
    interior = grown.interior._replace(pre=pres[lead])
    for leaf in (ground.biases[name][0] for name in group):
        if leaf is not None:
            interior = interior._replace(axes=interior.axes | unit_axes(ground.views, leaf))
    site = Site(
        name=group[lead],
        producer=group[lead],
        consumers=tuple(interior.reads),
        width=affine.outputs,
        activation=described,
        unit_leaves=tuple(leaves[i].path for i in grown.read if leaves[i].shape),
        mates=tuple(name for i, name in enumerate(group) if i != lead),
        terms=ground.terms.get(group[lead], ()),
    )
    return site, interior


_MEETING = {"add": "added to", "sub": "set off against", "mul": "multiplied with"}


def _mate(
    ground: Ground, affines: tuple[Affine, ...], group: list[str], name: str, how: str
) -> str:
    """Checks that an affine map can share its units with those of a group."""
    widths = {affine.name: affine.outputs for affine in affines}
    first, other = ground.dots[group[0]], ground.dots[name]
    how = f"its units are {_MEETING.get(how, f'joined by {how}')} the result of {name}"
    if ground.terms.keys() & {name, *group}:
        raise Refused(f"{how}, and one of them is a sum of maps")
    same = gates.same_value(ground.made, first.operand, other.operand)
    if name in group or not same or first.contract != other.contract:
        stream = ": a residual stream, or branches that meet" if "added" in how else ""
        raise Refused(f"{how}, which reads other features{stream}")
    if widths[name] != widths[group[0]]:
        raise Refused(f"{how}, which has other units")
    return name
