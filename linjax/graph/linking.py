"""Linking sites into chains."""

from linjax.exact.casts import cast_keeps
from linjax.graph.dots import Dot
from linjax.graph.program import Operand, Program, Ref
from linjax.graph.structure import Chain, Site


def link(program: Program, dots: dict[str, Dot], sites: dict[str, Site]) -> tuple[Chain, ...]:
    """Links sites into runs, in the order of the program.

    Where several affine maps read an activation, a run ends, and each of them that has units
    itself begins another; so does a sum of maps that read different features. A run comes before
    those that begin where it ends.
    """
    order = {name: index for index, name in enumerate(dots)}
    sums = {name for site in sites.values() if site.terms for name in site.maps}
    fed = {
        c
        for site in sites.values()
        if len(site.consumers) == 1 or _one_gated(sites, site.consumers)
        for c in site.consumers
        if c not in sums
    }
    heads = [name for name in dots if name in sites and name not in fed]
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
        whole = _is_input(program, dots[name].operand) and not run[0].terms
        source = "input" if whole else "hidden"
        chains.append(Chain(tuple(layers), tuple(run), source))
    return tuple(chains)


def _is_input(program: Program, operand: Operand) -> bool:
    """Whether a value is the network's first input, at most flattened."""
    made = program.makers()
    while isinstance(operand, Ref) and operand.id in made:
        op = made[operand.id]
        if op.name not in ("reshape", "convert_element_type"):
            return False
        operand = op.inputs[0]
        if op.name == "convert_element_type" and isinstance(operand, Ref):
            before = program.avals[operand.id].dtype
            if cast_keeps(before, op.params["new_dtype"]) == "changes":
                return False
    return bool(program.inputs) and operand == program.inputs[0]


def _one_gated(sites: dict[str, Site], consumers: tuple[str, ...]) -> bool:
    """Whether the readers of an activation are together one gated layer."""
    lead = next((name for name in consumers if name in sites), None)
    return lead is not None and {lead, *sites[lead].mates} == set(consumers)
