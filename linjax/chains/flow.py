"""What flows along a chain: the widths that the shapes of its leaves say, checked.

A map without any leaf has disappeared: its features are its input. A map with nothing but a
bias is constant. Maps whose results are added are one map, each with some of its rows; where
they have disappeared, ``W_linear`` has no columns.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.chains.layers import Array
from linjax.chains.maps import Affine
from linjax.chains.parts import Parts, parts_of, units_of
from linjax.chains.slopes import check_scaling
from linjax.chains.structure import Chain, Graph, Site
from linjax.errors import StructureError
from linjax.program.pytree import Flat, join


class Flow(NamedTuple):
    """How many features an affine map reads, and whether its site passes them on."""

    main: int
    carried: int
    residual: bool


Walk = tuple[tuple[Flow, ...], tuple[Parts, ...]]
"""Flows and parts of a chain's maps; the last depth's several consumers follow one another."""
Known = dict[str, Walk]
"""Those of the chains that have been walked along, by the name of their first map."""


def all_flows(graph: Graph, flat: Flat) -> Known:
    """Works out the widths along all chains, and checks them.

    Raises:
      StructureError: as :func:`flows`.
    """
    known: Known = {}
    for chain in graph.chains:
        flows(graph, chain, flat, known)
    return known


def flows(graph: Graph, chain: Chain, flat: Flat, known: Known | None = None) -> Walk:
    """Works out the widths along a chain from the shapes of the leaves, and checks them.

    Args:
      graph: the traced network.
      chain: one of its chains.
      flat: parameters by path.
      known: what is known of chains, to which this one and its trunks are added.

    Raises:
      StructureError: naming the leaf whose shape doesn't fit, and the expected one.
    """
    known = {} if known is None else known
    name = chain.layers[0][0]
    if name not in known:
        known[name] = _walked(graph, chain, flat, known)
    return known[name]


def _walked(graph: Graph, chain: Chain, flat: Flat, known: Known) -> Walk:
    branches = graph.branches(chain)
    lent = {name for branch in branches for name in branch.firsts[1:]}
    affines = [[graph.affine(name) for name in names] for names in chain.layers]
    parts = [[parts_of(a, flat) for a in group] for group in affines]
    open_ended = graph.open_ended(chain)
    for affine, part in zip(affines[-1], parts[-1], strict=True):
        if part.kernel is None and part.bias is None and affine.name not in open_ended:
            raise StructureError(
                f"{join(affine.kernel)}: missing, expected a kernel with {affine.outputs} outputs"
            )
    entries = entry(graph, chain, flat, known)
    main, carried = entries[0]
    if len(entries) > 1:
        parts[0] = [_together(graph, chain, entries, flat)]
        main, carried = sum(map(sum, entries)), 0
    result = []
    for depth, (group, own) in enumerate(zip(affines, parts, strict=True)):
        last = depth == len(affines) - 1
        for affine, part in zip(group, own, strict=True):
            outputs = affine.outputs if last and affine.name not in open_ended else None
            _check(_lent(affine, affine.name in lent), part, main, carried, outputs)
            check_scaling(affine.scaling, units_of(part), flat)
        if last:
            result += [Flow(main, carried, False) for _ in group]
            break
        part, ways = own[0], _ways(graph, chain, parts[depth + 1 :], flat)
        _check_mates(graph, chain.sites[depth], part, flat, main, carried)
        if part.gone:
            passes = not all(map(_constant, ways))
            result.append(Flow(main, carried, passes))
            main, carried = (main, carried) if passes else (0, 0)
            continue
        for path in chain.sites[depth].unit_leaves:
            if path in flat and jnp.shape(flat[path])[0] != units_of(part):
                shape = jnp.shape(flat[path])
                raise StructureError(f"{join(path)}: shape {shape}, expected ({units_of(part)},)")
        features = units_of(part) + (0 if part.linear is None else part.linear.shape[1])
        residual = any(_carries(way, features) for way in ways)
        result.append(Flow(main, carried, residual))
        below = main + carried if part.down is None else part.down.shape[1]
        main, carried = features, below if residual else 0
    return tuple(result), tuple(part for own in parts for part in own)


def unread(graph: Graph, chain: Chain, flat: Flat) -> str:
    """Why a chain can't be read from a pytree, empty if it can.

    Least squares also folds what chains know nothing of: the leaves between them and beside them.
    """
    try:
        flows(graph, chain, flat)
    except StructureError as error:
        return str(error)
    return ""


def units(graph: Graph, chain: Chain, flat: Flat) -> tuple[int, ...]:
    """How many units each site of a chain has, as the leaves of the map in front of it say."""
    return tuple(units_of(parts_of(graph.affine(site.producer), flat)) for site in chain.sites)


def entry(
    graph: Graph, chain: Chain, flat: Flat, known: Known | None = None
) -> tuple[tuple[int, int], ...]:
    """Returns how many features a chain's first maps read: by kernel, and as residual path."""
    known, result = {} if known is None else known, []
    for name, trunk in zip(chain.firsts, graph.trunks(chain), strict=True):
        if trunk is None:
            result.append((graph.affine(name).inputs, 0))
        else:
            end = flows(graph, trunk, flat, known)[0][-1]
            result.append((end.main, end.carried))
    return tuple(result)


def _lent(affine: Affine, lent: bool) -> Affine:
    """A map as it is checked: a sum's bias is its first map's, others may lack theirs."""
    return affine._replace(bias=None) if lent and affine.bias is not None else affine


def _together(
    graph: Graph, chain: Chain, entries: tuple[tuple[int, int], ...], flat: Flat
) -> Parts:
    """Checks the maps of a sum, and returns the shapes of the one map that they are."""
    reads = sum(map(sum, entries))
    own = [parts_of(graph.affine(name), flat) for name in chain.firsts]
    units = units_of(own[0])
    columns = {part.linear.shape[1] for part in own if part.linear is not None}
    linears = max(columns, default=0)
    for name, part, (main, carried) in zip(chain.firsts, own, entries, strict=True):
        affine = graph.affine(name)
        _check(_lent(affine, part is not own[0]), part, main, carried, None)
        wanted = (units, linears) if main + carried else (units_of(part), 0)
        has = (units_of(part), 0 if part.linear is None else part.linear.shape[1])
        if has != wanted or part.down is not None:
            raise StructureError(
                f"{join(affine.kernel)}: {has[0]} units and {has[1]} linear units, expected the "
                f"{wanted[0]} and {wanted[1]} of {chain.firsts[0]}, to whose its results are added"
            )

    def shaped(width: int) -> Array | None:
        return np.broadcast_to(0.0, (reads, width)) if width and reads else None

    return Parts(shaped(units), own[0].bias, shaped(linears), None, None)


def settled(graph: Graph, chain: Chain, flat: Flat) -> bool:
    """Whether branches behind a chain's last activation have been folded into another form.

    A branch whose first map has linear units, a bottleneck, or passes on what it reads isn't
    a plain kernel any more; then the chain in front of it stays as it is. So does one that can't
    be read itself, or whose branches can't.
    """
    if unread(graph, chain, flat):
        return True
    for branch in graph.branches(chain):
        if unread(graph, branch, flat):
            return True
        firsts = [parts_of(graph.affine(name), flat) for name in branch.firsts]
        if any(part.linear is not None or part.down is not None for part in firsts):
            return True
        if flows(graph, branch, flat)[0][0].residual:
            return True
    return False


def _ways(graph: Graph, chain: Chain, readers: list[list[Parts]], flat: Flat) -> list[list[Parts]]:
    """The ways that features take behind a layer: the maps along each, beyond branches too."""
    inner = [group[0] for group in readers[:-1]]
    branch_of = {name: branch for branch in graph.branches(chain) for name in branch.firsts}
    ways = []
    for name, end in zip(chain.layers[-1], readers[-1], strict=True):
        if not end.gone:
            ways.append([*inner, end])
        elif name in branch_of:  # else a gated layer's further map, which goes as the gate does
            branch = branch_of[name]
            if len(branch.firsts) > 1:  # the sum reads nothing here
                ways.append([*inner, end._replace(bias=np.zeros(0))])
                continue
            onward = _ways(graph, branch, _parts(graph, branch, flat), flat)
            ways += [[*inner, *way] for way in onward]
    return ways


def _parts(graph: Graph, chain: Chain, flat: Flat) -> list[list[Parts]]:
    """The leaves of the maps behind a chain's first."""
    return [[parts_of(graph.affine(n), flat) for n in names] for names in chain.layers[1:]]


def _check_mates(
    graph: Graph, site: Site, part: Parts, flat: Flat, main: int, carried: int
) -> None:
    """Checks that a gated layer's other maps have the producer's units, and only these."""
    kernel = graph.affine(site.producer).kernel
    for affine in map(graph.affine, site.mates):
        own = parts_of(affine, flat)
        if affine.kernel == kernel:
            own = own._replace(linear=None)  # the producer's
        if units_of(own) != units_of(part) or own.linear is not None or own.down is not None:
            raise StructureError(
                f"{join(affine.kernel)}: {units_of(own)} units, expected the {units_of(part)} of "
                f"{site.producer}, whose units its results multiply"
            )
        if units_of(own):
            _check(affine, own, main, carried, None)


def _constant(way: list[Parts]) -> bool:
    """Whether the next map that exists reads nothing at all: it is a bias alone."""
    part = next(part for part in way if not part.gone)
    return part.kernel is None and part.linear is None and part.down is None


def _carries(way: list[Parts], features: int) -> bool:
    """Whether the next map that exists reads a residual path beside so many features."""
    part = next(part for part in way if not part.gone)
    if part.down is not None:
        return part.down.shape[0] > features
    if part.kernel is None and part.linear is not None:
        return part.linear.shape[0] > features
    return part.residual is not None


def _check(affine: Affine, part: Parts, main: int, carried: int, outputs: int | None) -> None:
    """Checks one map's leaves against the features that it reads."""

    def expect(kind: str, leaf: Array | None, rows: int, columns: int | None) -> None:
        if leaf is not None and (leaf.shape[0] != rows or columns not in (None, leaf.shape[1])):
            path = affine.kernel if kind == "kernel" else affine.extra(kind)
            want = (rows, "any" if columns is None else columns)
            order = want if affine.layout == (0, 1) else want[::-1]
            shape = leaf.shape if affine.layout == (0, 1) else leaf.shape[::-1]
            raise StructureError(
                f"{join(path)}: shape {tuple(shape)}, expected ({order[0]}, {order[1]})"
            )

    total = main + carried
    expect("down", part.down, total, None)
    if part.down is not None:
        total = part.down.shape[1]
        main, carried = total, 0
    expect("kernel", part.kernel, main, outputs)
    expect("residual", part.residual, carried, None if part.kernel is None else units_of(part))
    expect("linear", part.linear, total, None)
    if part.residual is not None and part.kernel is None:
        raise StructureError(
            f"{join(affine.kernel)}: missing beside {affine.extra('residual')[-1]}"
        )
    if part.kernel is not None and part.residual is None and carried:
        raise StructureError(
            f"{join(affine.extra('residual'))}: missing, expected ({carried}, {units_of(part)})"
        )
    if part.bias is not None and tuple(part.bias.shape) != (
        (units_of(part),) if outputs is None else (outputs,)
    ):
        want = units_of(part) if outputs is None else outputs
        raise StructureError(
            f"{join(affine.bias_path)}: shape {tuple(part.bias.shape)}, expected ({want},)"
        )
    if part.bias is None and affine.bias is not None and part.kernel is not None:
        raise StructureError(f"{join(affine.bias_path)}: missing, expected ({units_of(part)},)")
