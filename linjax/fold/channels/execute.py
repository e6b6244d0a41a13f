"""Folding the sites of a network to given widths, by second moments alone."""

from typing import Any

import numpy as np

from linjax.fold.channels.groups import evened, groups_of
from linjax.fold.channels.network import Network, bare, chain_frame, feeding
from linjax.fold.channels.plan import Landscape, State, start
from linjax.fold.channels.problem import Problem, Reader, kept_features, result, through, whole
from linjax.fold.channels.surface import Choice, choose, reader_sights
from linjax.fold.least_squares.directions import solve
from linjax.fold.least_squares.features import Features, Frame, side_by_side
from linjax.fold.least_squares.one_shot import execute
from linjax.fold.report import SiteChange, change
from linjax.graph import pytree
from linjax.graph.chains import write_chain
from linjax.graph.channels import kernels
from linjax.graph.channels.kernels import Kernel
from linjax.graph.channels.members import Width, left, run_of
from linjax.graph.structure import ChannelSite, Graph, Reading
from linjax.graph.substitute import Pull, substitute

Array = np.ndarray


def choices(network: Network, state: State) -> list[Choice]:
    """Chooses what every site keeps."""
    made = []
    for problem, (k, r) in zip(network.problems, state.widths, strict=True):
        if (k, r) == (problem.channels, 0):
            made.append(Choice(np.arange(k), np.zeros((problem.units, 0))))
            continue
        sights = []
        for reader in problem.readers:
            data = whole(reader)
            sights += reader_sights(problem, reader, data, data)
        made.append(choose(problem, sights, k, r))
    return made


def executed(
    network: Network, land: Landscape, state: State, made: list[Choice]
) -> tuple[pytree.Flat, dict[str, SiteChange]]:
    """Returns the flat pytree folded to given widths, and what became of every site.

    Args:
      network: the network.
      land: what its widths cost.
      state: the widths.
      made: what the sites behind convolutions keep, of :func:`choices`.
    """
    flat = apply_choices(network, made)
    changes = {
        problem.name: _change(problem, choice)
        for problem, choice in zip(network.problems, made, strict=True)
    }
    first = start(land)
    kept = dict(zip((s.name for s in network.sites), made, strict=True))
    for i, (chain, problem) in enumerate(zip(network.graph.chains, network.chains, strict=True)):
        inputs = chain_inputs(network, chain, kept)
        layers = problem.layers
        if inputs is not None or state.shapes[i] != first.shapes[i]:
            data = chain_frame(problem)
            layers = execute(problem, data, state.shapes[i], inputs)
            flat = write_chain(network.graph, flat, chain, layers)
        for site, old, new in zip(chain.sites, problem.layers, layers, strict=False):
            changes[site.name] = change(old, new)
    return flat, changes


def _change(problem: Problem, choice: Choice) -> SiteChange:
    units = choice.kept[choice.kept < problem.units]
    linears = len(choice.kept) - len(units) + choice.mix.shape[1]
    return SiteChange(problem.units, units, linears, False)


def chain_inputs(network: Network, chain: Any, kept: dict[str, Choice]) -> Features | None:
    """Returns what is left of the features that a chain reads, None if all of them are."""
    feeds = feeding(network, chain)
    chosen = {site.name: kept[site.name].kept for _, site in feeds}
    if all(len(own) == network.widths[name].total for name, own in chosen.items()):
        return None
    reading, site = feeds[0]
    whole = run_of(reading.members, network.widths, site.name).whole
    stay = left(reading.members, network.widths, site.name, chosen)
    units, linears = (own[None, :, None] for own in stay)
    outer, inner = np.arange(reading.outer)[:, None, None], np.arange(reading.inner)
    cut = reading.outer * whole.units * reading.inner
    rows = [
        ((outer * whole.units + units) * reading.inner + inner).reshape(-1),
        (cut + (outer * whole.linears + linears) * reading.inner + inner).reshape(-1),
    ]
    return Features(np.concatenate(rows))


def restricted_chains(
    network: Network, flat: pytree.Flat, made: list[Choice], onto: dict[str, Array] | None = None
) -> pytree.Flat:
    """Restricts the dense chains that read channels to those that are left; nothing is refitted.

    Args:
      network: the network, before.
      flat: its parameters, its convolutions restricted already.
      made: what each site keeps.
      onto: by site, ``(channels, channels)`` matrices by which channels are first put
        together: row v holds what channel v stands for.
    """
    kept = dict(zip((s.name for s in network.sites), made, strict=True))
    for chain, problem in zip(network.graph.chains, network.chains, strict=True):
        inputs = chain_inputs(network, chain, kept)
        if inputs is None:
            continue
        reading, site = feeding(network, chain)[0]
        whole = run_of(reading.members, network.widths, site.name).whole
        together = None
        for name in (onto or {}).keys() & {site.name for _, site in feeding(network, chain)}:
            own = run_of(reading.members, network.widths, name).channels
            together = np.eye(whole.total)
            together[np.ix_(own, own)] = onto[name]
        pull = _pull(inputs.rows, together, reading, whole)
        layers = substitute(problem.layers, 0, pull, np.zeros(problem.layers[0].reads))
        flat = write_chain(network.graph, flat, chain, layers)
    return flat


def _pull(kept: Array, onto: Array | None, reading: Reading, whole: Width) -> Pull:
    """How a matrix's rows change where channels are put together and restricted."""

    def pull(rows: Array) -> Array:
        if onto is not None:
            taps = kernels.by_tap(rows, reading, whole)
            rows = kernels.from_taps(np.einsum("vt,ktq->kvq", onto, taps), reading, whole)
        return rows[kept]

    return pull


def refitted_rows(
    problem: Problem, reader: Reader, choice: Choice, data: Frame
) -> tuple[Array, Array]:
    """Refits what a reader does with the channels that are left.

    Returns:
      ``(taps, kept + r, q)`` rows in the order of ``choice``, and the shift of the bias.
    """
    if reader.groups > 1:
        return _refitted_in_groups(problem, reader, choice, data)
    f = side_by_side(
        [kept_features(problem, reader, choice.kept), through(problem, reader, choice.mix)]
    )
    z = result(problem, reader)
    rows = solve(data.within(f), data.between(f, z))
    shift = data.mean_of(z) - data.mean_of(f) @ rows
    by_channel = rows.reshape(-1, reader.taps, rows.shape[1])
    return by_channel.swapaxes(0, 1), shift


def _refitted_in_groups(
    problem: Problem, reader: Reader, choice: Choice, data: Frame
) -> tuple[Array, Array]:
    """The same where a reader has groups, each of which reads channels of its own."""
    taps, _, q = reader.rows.shape
    rows, shift = np.zeros((taps, len(choice.kept), q)), np.zeros(q)
    for own, channels, outputs in groups_of(reader):
        mine = np.flatnonzero(np.isin(choice.kept, channels))
        part = choice._replace(kept=choice.kept[mine])
        rows[np.ix_(np.arange(taps), mine, outputs)], shift[outputs] = refitted_rows(
            problem, own._replace(groups=1), part, data
        )
    return rows, shift


def apply_choices(
    network: Network, made: list[Choice], refit: bool = True, ridge: float | None = None
) -> pytree.Flat:
    """Narrows all sites: readers are refitted, producers restricted, batch norm multiplied in.

    Args:
      network: the network.
      made: what each site keeps.
      refit: whether readers are refitted to what is left; else they read it as before.
      ridge: shrinkage for the refits; by default as the number of samples asks for.
    """
    graph = network.graph
    new = dict(network.kernels)
    flat = dict(network.flat)
    now = dict(network.widths)
    for site, problem, choice in zip(network.sites, network.problems, made, strict=True):
        if len(choice.kept) == problem.channels:
            continue
        width = _left(problem, choice)
        for reading, reader in zip(site.readings, problem.readers, strict=True):
            if reader.chained:
                continue
            rows, shift = reader.rows[:, choice.kept], np.zeros(reader.rows.shape[2])
            if refit:
                data = whole(reader, ridge)
                rows, shift = refitted_rows(problem, reader, choice, data)
            run = run_of(reading.members, now, site.name)
            if reader.name in new:
                old = new[reader.name]
                rows = run.replaced(np.concatenate([old.kernel, old.linear], 2), rows, width)
                new[reader.name] = _with_rows(old, rows, shift)
                continue
            affine = graph.affine(reader.name)
            rows = run.replaced(kernels.read_rows(affine, reading, flat, run.whole), rows, width)
            bias = shift if affine.bias_path not in flat else flat[affine.bias_path] + shift
            flat = kernels.write_rows(
                affine, reading, flat, rows, run.with_own(width), np.asarray(bias)
            )
        now[site.name] = width
    now = dict(network.widths)
    for site, problem, choice in zip(network.sites, network.problems, made, strict=True):
        if len(choice.kept) == problem.channels:
            continue
        new[site.producer] = _restricted(new[site.producer], problem, choice)
        flat = _narrowed(site, flat, choice.kept[choice.kept < problem.units], now)
        now[site.name] = _left(problem, choice)
    for conv in graph.convolutions:
        changed = new[conv.name] is not network.kernels[conv.name]
        if changed or (conv.scaling is not None and conv.scaling.leaves[0] in flat):
            flat = kernels.write(conv, flat, new[conv.name])
    return flat


def _left(problem: Problem, choice: Choice) -> Width:
    units = int(np.sum(choice.kept < problem.units))
    return Width(units, len(choice.kept) - units + choice.mix.shape[1])


def _with_rows(kernel: Kernel, rows: Array, shift: Array) -> Kernel:
    """A convolution that reads other channels."""
    k = kernel.kernel.shape[2]
    return Kernel(
        rows[:, :, :k],
        kernel.bias + shift[:k],
        rows[:, :, k:],
        kernel.linear_bias + shift[k:],
    )


def _restricted(kernel: Kernel, problem: Problem, choice: Choice) -> Kernel:
    """A convolution restricted to what is kept, with new linear channels."""
    units = choice.kept[choice.kept < problem.units]
    linear = choice.kept[choice.kept >= problem.units] - problem.units
    return Kernel(
        kernel.kernel[:, :, units],
        kernel.bias[units],
        np.concatenate([kernel.linear[:, :, linear], kernel.kernel @ choice.mix], axis=2),
        np.concatenate([kernel.linear_bias[linear], kernel.bias @ choice.mix]),
    )


def _narrowed(
    site: ChannelSite, flat: pytree.Flat, units: Array, widths: dict[str, Width]
) -> pytree.Flat:
    """Restricts the parameters of a site's activation."""
    flat = dict(flat)
    for leaf in site.unit_leaves:
        stay, _ = left(leaf.members, widths, site.name, {site.name: units})
        if len(stay):
            flat[leaf.path] = np.take(np.asarray(flat[leaf.path]), stay, axis=leaf.axis)
        else:
            flat.pop(leaf.path, None)
    return flat


def without_channels(params: Any, graph: Graph, masks: list[Array]) -> Any:
    """Removes channels that masks, one a site behind a convolution, leave out; nothing else."""
    if all(mask.all() for mask in masks):
        return params
    network = bare(graph, pytree.flatten(params))
    mask_of = dict(zip((site.name for site in graph.channels), masks, strict=True))
    made = [
        Choice(
            np.concatenate(
                [
                    np.flatnonzero(evened(mask_of[problem.name], problem.groups)),
                    np.arange(problem.units, problem.channels),
                ]
            ),
            np.zeros((problem.units, 0)),
        )
        for problem in network.problems
    ]
    flat = apply_choices(network, made, refit=False)
    return pytree.unflatten(restricted_chains(network, flat, made), like=params)
