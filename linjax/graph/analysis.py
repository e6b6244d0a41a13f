"""Finding the sites of a program: affine map → elementwise activation → affine maps.

Nothing is inferred from names. A site is accepted only if every reader of every value
between the two affine maps is understood; otherwise it is refused with the reason.
"""

from typing import NamedTuple

import jax

from linjax.graph import cuts, dense, linking
from linjax.graph.dots import Dot, find_dots
from linjax.graph.ground import Ground
from linjax.graph.grow import Interior
from linjax.graph.maps import Affine, Path
from linjax.graph.program import Program
from linjax.graph.scaling import Behind, Context
from linjax.graph.structure import Graph, Leaf
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
    scaled: dict[str, Behind]
    joins: frozenset[int]


def analyse(program: Program, leaves: tuple[Leaf, ...]) -> Analysis:
    """Finds affine maps, sites, chains and refusals of a program.

    A kernel for several maps is cut where these fold as one gated layer; else it stays whole.
    """
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
    context = Context.of(program, views, leaves)
    dots, refusals = find_dots(context)
    ground = Ground.of(context, dots)
    affines = tuple(
        _affine(name, dot, ground.biases[name][0], leaves)._replace(part=program.part(dot.leaf))
        for name, dot in dots.items()
    )
    sites, interiors, refused = dense.find_sites(ground, affines, leaves)
    scaled = {name: found for name, found in ground.behind.items() if name in sites}
    affines = tuple(
        a._replace(scaling=scaled[a.name].scaling) if a.name in scaled else a for a in affines
    )
    chains = linking.link(program, dots, sites)
    graph = Graph(affines, chains, (*refusals, *refused), leaves)
    return Analysis(program, leaves, graph, dots, interiors, scaled, ground.joins)


def _affine(name: str, dot: Dot, bias: int | None, leaves: tuple[Leaf, ...]) -> Affine:
    return Affine(
        name=name,
        kernel=leaves[dot.leaf].path,
        bias=None if bias is None else leaves[bias].path,
        inputs=leaves[dot.leaf].shape[dot.layout[0]],
        outputs=leaves[dot.leaf].shape[dot.layout[1]],
        layout=dot.layout,
    )
