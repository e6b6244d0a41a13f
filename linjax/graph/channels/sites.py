"""Finding the sites behind convolutions: channels, channelwise operations, readers.

Channels of several sites may stand side by side in what a map reads.
"""

from typing import NamedTuple

from linjax.graph.channels.convolutions import (
    Behind,
    Context,
    ConvOp,
    Unfit,
    describe,
    groups,
    look_behind,
)
from linjax.graph.channels.grow import Growth, Interior, Product
from linjax.graph.maps import Convolution
from linjax.graph.structure import ChannelSite, Member, Refusal


class Channels(NamedTuple):
    """What the runner needs to know of convolutions, by name."""

    convs: dict[str, ConvOp]
    behind: dict[str, Behind]
    interiors: dict[str, Interior]


class Found(NamedTuple):
    """What the analysis of convolutions adds to a graph."""

    convolutions: tuple[Convolution, ...]
    sites: tuple[ChannelSite, ...]
    refusals: tuple[Refusal, ...]
    channels: Channels


def find(
    context: Context, convs: dict[str, ConvOp], products: dict[int, tuple[str, Product]]
) -> Found:
    """Finds the sites of a program's convolutions.

    Args:
      context: the program and its parameters.
      convs: convolutions by name, grouped ones too.
      products: dense layers by the index of their operation: name and product.
    """
    program = context.program
    grouped = {name: groups(context, program.ops[conv.at]) for name, conv in convs.items()}
    plain = {name: conv for name, conv in convs.items() if grouped[name] != -1}
    by_index = {conv.at: (name, conv) for name, conv in plain.items()}
    depthwise = {convs[name].at: name for name, count in grouped.items() if count == -1}
    found: list[Convolution] = []
    grown: list[Growth] = []
    refusals: list[Refusal] = []
    behinds: dict[str, Behind] = {}
    interiors: dict[str, Interior] = {}
    crossed: set[int] = set()
    for name, conv in plain.items():
        outputs = context.leaves[conv.leaf].shape[
            conv.view[program.ops[conv.at].params["dimension_numbers"].rhs_spec[0]]
        ]
        behind = look_behind(context, program.ops[conv.at].outputs[0], conv.axis, outputs)
        static = describe(context, name, conv, behind)
        found.append(static)
        behinds[name] = behind
        growth = Growth(context, by_index, products, depthwise, conv, behind, static)
        try:
            is_site = growth.grow()
        except Unfit as reason:
            refusals.append(Refusal(name, str(reason)))
            continue
        if is_site:
            grown.append(growth)
            interiors[name] = growth.interior()
            crossed |= growth.crossed
    for name, count in grouped.items():
        if count == -1 and convs[name].at not in crossed:
            refusals.append(
                Refusal(name, "a depthwise convolution, not behind channels that can fold")
            )
    together = _members(grown)
    return Found(
        tuple(found),
        tuple(growth.site(together) for growth in grown),
        tuple(refusals),
        Channels(plain, behinds, interiors),
    )


def _members(grown: list[Growth]) -> dict[str | int, tuple[Member, ...]]:
    """What channels are concatenated with, by reader and by leaf: sites, and gaps between them."""
    found: dict[str | int, list[tuple[int, int, str, int]]] = {}
    for growth in grown:
        for key, (below, above) in growth.among.items():
            found.setdefault(key, []).append((below, growth.width, growth.static.name, above))
    result = {}
    for key, runs in found.items():
        members, at = [], 0
        for below, width, site, _ in sorted(runs):
            members += [Member("", below - at)] if below > at else []
            members.append(Member(site, width))
            at = below + width
        below, width, _, above = runs[0]
        rest = below + width + above - at
        result[key] = (*members, *([Member("", rest)] if rest else []))
    return {key: members for key, members in result.items() if len(members) > 1}
