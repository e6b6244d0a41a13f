"""The chains of a network: its sites, as far as plain affine maps make and read their units."""

from typing import NamedTuple

import jax

from linjax.chains import activation
from linjax.chains.groups import Group, find_groups
from linjax.chains.maps import Activation, Affine, Part, Scaling
from linjax.chains.products import Map, Program
from linjax.chains.region import Region, grow
from linjax.chains.structure import Chain, Graph, Site
from linjax.dims.network import Network
from linjax.dims.sites import Refusal
from linjax.exact.casts import cast_keeps
from linjax.program.flat import Const, Operand, Ref
from linjax.program.pytree import Leaf


class Bent(NamedTuple):
    """A site of chains as it stands in the program.

    Attributes:
      dim: its dimension.
      groups: what makes its units, a gate first.
      region: its activation.
      activation: what that is.
    """

    dim: int
    groups: tuple[Group, ...]
    region: Region
    activation: Activation

    @property
    def pre(self) -> Ref:
        """Its pre-activation."""
        return self.groups[0].map.results[0]


class View(NamedTuple):
    """A network's chains.

    Attributes:
      program: the network's program.
      graph: the chains.
      maps: the affine maps by name.
      bent: the sites by name.
    """

    program: Program
    graph: Graph
    maps: dict[str, Map]
    bent: dict[str, Bent]


def view(network: Network, leaves: tuple[Leaf, ...]) -> View:
    """Derives the chains of a network from its sites.

    What isn't made, bent and read by affine maps alone is in no chain.

    Args:
      network: the network.
      leaves: its parameters.
    """
    program = Program(network)
    with jax.ensure_compile_time_eval():  # activations are named, also under a user's jit
        found = _sites(program) if network.dense else []
    maps, scalings = _maps(program, found)
    names = _names(network, maps)
    affines = tuple(_affine(program, m, names[m], scalings.get(m)) for m in maps)
    by_place: dict[int, tuple[str, ...]] = {}
    for m in maps:
        by_place[m.at] = (*by_place.get(m.at, ()), names[m])
    bent = {names[own.groups[0].map]: own for own in found}
    sites = {name: _site(program, own, names, by_place) for name, own in bent.items()}
    order = {names[m]: m for m in maps}
    chains = link(program, order, sites)
    ends = {name for site in sites.values() for name in site.consumers}
    refusals = (*(r for r in network.refusals if r.name not in ends), *_outside(network, found))
    own = network.computed
    computed = () if own is None else (own.leaves, tuple(sorted(own.gone)))
    return View(program, Graph(affines, chains, refusals, leaves, *computed), order, bent)


def _sites(program: Program) -> list[Bent]:
    """Finds the sites from the last to the first: what they read is known then."""
    whole = {at for at, m in program.maps.items() if m.part == Part()}
    found: list[Bent] = []
    candidates = []
    for site in program.network.sites:
        groups = find_groups(program, site)
        if groups:
            candidates.append((min(g.map.at for g in groups), site.dim, groups))
    for _, dim, groups in sorted(candidates, key=lambda c: -c[0]):
        region = grow(program, groups, frozenset(whole))
        if region is None:
            continue
        found.append(_described(program, dim, groups, region))
        whole |= {m.at for g in groups for m in (g.map, *g.terms)}
    return found[::-1]


def _outside(network: Network, found: list[Bent]) -> list[Refusal]:
    """Sites that aren't part of the chains that there are."""
    own = {bent.dim for bent in found}
    if not own:
        return []
    return [
        Refusal(site.name, "its units are made, bent or read by more than affine maps")
        for site in network.sites
        if site.dim not in own
    ]


def _described(program: Program, dim: int, groups: list[Group], region: Region) -> Bent:
    if len(groups) == 1:
        what = activation.describe(program, region, groups[0].map.results[0])
        return Bent(dim, tuple(groups), region, what)
    what, gate = activation.describe_gate(program, region, groups)
    rest = (g for n, g in enumerate(groups) if n != gate)
    return Bent(dim, (groups[gate], *rest), region, what)


def _maps(program: Program, found: list[Bent]) -> tuple[list[Map], dict[Map, Scaling]]:
    """All affine maps in order: those of sites, and products with a whole kernel."""
    own = [m for bent in found for g in bent.groups for m in (g.map, *g.terms)]
    scalings = {g.map: g.scaling for bent in found for g in bent.groups if g.scaling is not None}
    taken = {m.at for m in own}
    rest = [m for at, m in program.maps.items() if at not in taken and m.part == Part()]
    return sorted([*own, *rest], key=lambda m: (m.at, m.part)), scalings


def _names(network: Network, maps: list[Map]) -> dict[Map, str]:
    def name(m: Map) -> str:
        return network.names[m.leaf] + (f"[{m.part.number}]" if m.part.of > 1 else "")

    return {m: name(m) for m in maps}


def _affine(program: Program, m: Map, name: str, scaling: Scaling | None) -> Affine:
    paths, shape = program.network.paths, program.leaf_shape(m.leaf)
    folder, like = paths[m.leaf][:-1], f"{paths[m.leaf][-1]}_"
    beside = (path[-1] for path in paths if path[:-1] == folder)
    return Affine(
        name=name,
        kernel=paths[m.leaf],
        bias=None if m.bias is None else paths[m.bias],
        inputs=shape[m.layout[0]],
        outputs=shape[m.layout[1]] // m.part.of,
        layout=m.layout,
        scaling=scaling,
        part=m.part,
        taken=tuple(sorted(name for name in beside if name.startswith(like))),
    )


def _site(
    program: Program, bent: Bent, names: dict[Map, str], by_place: dict[int, tuple[str, ...]]
) -> Site:
    lead, *mates = bent.groups
    paths = program.network.paths
    return Site(
        name=names[lead.map],
        producer=names[lead.map],
        consumers=tuple(name for at in bent.region.reads for name in by_place[at]),
        width=program.shape(lead.map.results[0])[lead.map.axis],
        activation=bent.activation,
        unit_leaves=tuple(paths[leaf] for leaf in bent.region.leaves if program.leaf_shape(leaf)),
        mates=tuple(names[g.map] for g in mates),
        terms=tuple(names[m] for m in lead.terms),
    )


def link(program: Program, maps: dict[str, Map], sites: dict[str, Site]) -> tuple[Chain, ...]:
    """Links sites into runs, in the order of the program.

    Where several affine maps read an activation, a run ends, and each of them that has units
    itself begins another; so does a sum of maps that read different features. A run comes before
    those that begin where it ends.
    """
    order = {name: index for index, name in enumerate(maps)}
    sums = {name for site in sites.values() if site.terms for name in site.maps}
    fed = {
        c
        for site in sites.values()
        if len(site.consumers) == 1 or _one_gated(sites, site.consumers)
        for c in site.consumers
        if c not in sums
    }
    heads = [name for name in maps if name in sites and name not in fed]
    chains = []
    for name in sorted(heads, key=lambda n: max(map(order.__getitem__, sites[n].maps))):
        layers: list[tuple[str, ...]] = [(name,)]
        run: list[Site] = []
        while len(layers[-1]) == 1 and layers[-1][0] in sites:
            site = sites[layers[-1][0]]
            if site.terms and run:
                break
            run.append(site)
            onward = tuple(name for name in site.consumers if name in sites)
            layers.append(onward if _one_gated(sites, site.consumers) else site.consumers)
        whole = _is_input(program, maps[name].data) and not run[0].terms
        source = "input" if whole else "hidden"
        chains.append(Chain(tuple(layers), tuple(run), source))
    return tuple(chains)


def _is_input(program: Program, operand: Operand) -> bool:
    """Whether a value is the network's first input, at most flattened."""
    makers, avals = program.layout.makers, program.layout.program.avals
    while isinstance(operand, Ref) and operand.id in makers:
        op, source = makers[operand.id], makers[operand.id].inputs[0]
        if op.name not in ("reshape", "convert_element_type") or isinstance(source, Const):
            return False
        if (
            op.name != "reshape"
            and cast_keeps(avals[source.id].dtype, op.params["new_dtype"]) == "changes"
        ):
            return False
        operand = source
    return bool(program.layout.inputs) and operand == program.layout.inputs[0]


def _one_gated(sites: dict[str, Site], consumers: tuple[str, ...]) -> bool:
    """Whether the readers of an activation are together one gated layer."""
    lead = next((name for name in consumers if name in sites), None)
    return lead is not None and {lead, *sites[lead].mates} == set(consumers)
