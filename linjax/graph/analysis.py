"""Finding the sites of a program: affine map → elementwise activation → affine maps.

Nothing is inferred from names. A site is accepted only if every reader of every value
between the two affine maps is understood; otherwise it is refused with the reason.
"""

from typing import NamedTuple

import jax

from linjax.graph import cuts, dense, linking, pieces
from linjax.graph import heads as head_sites
from linjax.graph.channels import convolutions
from linjax.graph.channels import sites as channel_sites
from linjax.graph.channels.grow import Product
from linjax.graph.channels.sites import Channels
from linjax.graph.dots import Dot, find_dots
from linjax.graph.ground import Ground
from linjax.graph.grow import Interior
from linjax.graph.maps import Affine, Path
from linjax.graph.program import Program
from linjax.graph.structure import Graph, HeadSite, Leaf, Refusal
from linjax.graph.views import find_views


class Analysis(NamedTuple):
    """What the runner needs beside the static graph, by affine map's name.

    The program is as it was analysed, with a leaf for each part of a kernel that several maps
    share; ``leaves`` are its own.
    """

    program: Program
    leaves: tuple[Leaf, ...]
    graph: Graph
    dots: dict[str, Dot]
    interiors: dict[str, Interior]
    scaled: dict[str, convolutions.Behind]
    joins: frozenset[int]
    channels: Channels
    heads: dict[str, tuple[HeadSite, head_sites.Inside]]


def analyse(program: Program, leaves: tuple[Leaf, ...]) -> Analysis:
    """Finds affine maps, sites, chains and refusals of a program.

    A kernel for several maps is cut where these fold as one gated layer; else it stays whole.
    """
    program = pieces.taken_apart(program)
    whole: dict[Path, str] = {}
    while True:
        with jax.ensure_compile_time_eval():  # activations are measured, also under a user's jit
            found = _analyse(*cuts.cut(program, leaves, frozenset(whole)))
        apart = _apart(found)
        if not apart:
            break
        whole |= apart
    reasons = {a.name: whole[a.kernel] for a in found.graph.affines if a.kernel in whole}
    refusals = (r._replace(reason=reasons.get(r.name, r.reason)) for r in found.graph.refusals)
    return found._replace(graph=found.graph._replace(refusals=tuple(refusals), leaves=leaves))


def _apart(found: Analysis) -> dict[Path, str]:
    """Leaves whose parts aren't all kernels, or all biases, of one gated layer, with reasons."""
    site_of = {name: s.name for s in found.graph.sites for name in s.maps}
    reasons = {refusal.name: refusal.reason for refusal in found.graph.refusals}
    of = {
        leaf.path: found.program.part(i).of
        for i, leaf in enumerate(found.leaves)
        if found.program.part(i).of > 1
    }
    result = {}
    for path in of:
        parts = [a for a in found.graph.affines if a.part.of > 1 and path in (a.kernel, a.bias)]
        sites = {site_of.get(a.name) for a in parts}
        if len(parts) != of[path] or len(sites) != 1 or None in sites:
            told = (reasons[a.name] for a in parts if a.name in reasons)
            result[path] = next(told, "its units are cut apart and used by themselves")
    return result


def _analyse(program: Program, leaves: tuple[Leaf, ...]) -> Analysis:
    views = find_views(program)
    context = convolutions.Context.of(program, views, leaves)
    dots, convs, refusals = find_dots(context)
    ground = Ground.of(context, dots, sums=not convs)
    affines = tuple(
        _affine(name, dot, ground.biases[name][0], leaves)._replace(part=program.part(dot.leaf))
        for name, dot in dots.items()
    )
    sites, interiors, refused = dense.find_sites(ground, affines, leaves, bool(convs))
    refusals += refused
    scaled = {name: found for name, found in ground.behind.items() if name in sites}
    affines = tuple(
        a._replace(scaling=scaled[a.name].scaling) if a.name in scaled else a for a in affines
    )
    chains = linking.link(program, dots, sites)
    gated = {name for s in sites.values() if s.mates for name in s.maps}
    products = {
        dot.at: (name, Product(dot.operand, dot.contract))
        for name, dot in dots.items()
        if name not in gated
    }
    found = channel_sites.find(context, convs, products)
    refusals += found.refusals
    folding = {name for chain in chains for name in chain.maps}
    folding |= {reading.consumer for site in found.sites for reading in site.readings}
    taken = frozenset(dot.leaf for name, dot in dots.items() if name in folding)
    named = frozenset((*dots, *(refusal.name for refusal in refusals)))
    heads = head_sites.find(context, taken, named)
    own = {name for site, _ in heads.values() for name in (site.name, site.out)}
    left = tuple(refusal for refusal in refusals if refusal.name not in own)
    if convs:
        reason = "attention's values, in a network with convolutions"
        left += tuple(Refusal(name, reason) for name in heads)
        heads = {}
    sites_of = tuple(site for site, _ in heads.values())
    graph = Graph(affines, chains, left, leaves, found.convolutions, found.sites, sites_of)
    return Analysis(
        program, leaves, graph, dots, interiors, scaled, ground.joins, found.channels, heads
    )


def _affine(name: str, dot: Dot, bias: int | None, leaves: tuple[Leaf, ...]) -> Affine:
    return Affine(
        name=name,
        kernel=leaves[dot.leaf].path,
        bias=None if bias is None else leaves[bias].path,
        inputs=leaves[dot.leaf].shape[dot.layout[0]],
        outputs=leaves[dot.leaf].shape[dot.layout[1]],
        layout=dot.layout,
    )
