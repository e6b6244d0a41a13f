"""A whole network with convolutions as least squares sees it: sites, dense chains, their costs."""

import math
import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.errors import EvidenceError, FoldWarning
from linjax.evidence.moments import Moments
from linjax.evidence.stats import Stats
from linjax.fold.channels.plan import Chained, Cost, Landscape, Read
from linjax.fold.channels.problem import Problem, Reader, ridge_for
from linjax.fold.channels.surface import sights, surface
from linjax.fold.least_squares.budget import Prices
from linjax.fold.least_squares.prices import Problem as ChainProblem
from linjax.fold.least_squares.prices import prices, shape_of, shrunk, spread
from linjax.graph import pytree
from linjax.graph.chains import read_chain
from linjax.graph.channels import kernels, shapes, vanished
from linjax.graph.channels.kernels import Kernel
from linjax.graph.channels.members import Width
from linjax.graph.channels.readers import rows
from linjax.graph.count import count
from linjax.graph.structure import Chain, ChannelSite, Graph, Reading

Array = np.ndarray


NOTHING = Moments(np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0, 0)), (), ())
"""In place of moments, where nothing was measured."""


class Network(NamedTuple):
    """Parameters and evidence, read.

    Attributes:
      graph: the network.
      flat: its parameters by path.
      kernels: its convolutions by name, per-channel affine maps multiplied in.
      widths: channels by site.
      sites: the sites that can fold.
      problems: what they are to least squares.
      chains: the dense chains.
    """

    graph: Graph
    flat: pytree.Flat
    kernels: dict[str, Kernel]
    widths: dict[str, Width]
    sites: tuple[ChannelSite, ...]
    problems: tuple[Problem, ...]
    chains: tuple[ChainProblem, ...]


def read(params: Any, stats: Stats) -> Network:
    """Reads a network and its evidence.

    Raises:
      EvidenceError: if the evidence holds no second moments.
    """
    if stats.moments is None:
        raise EvidenceError("sizes and tolerances need second moments; collect with them")
    graph = stats.graph
    known = bare(graph, pytree.flatten(params))
    sites, problems, skipped = [], [], []
    measured = dict(zip((site.name for site in graph.channels), stats.channels, strict=True))
    for site, empty in zip(known.sites, known.problems, strict=True):
        seen = measured[site.name]
        readers = tuple(
            reader._replace(moments=moments)
            for reader, moments in zip(empty.readers, seen.readings, strict=True)
        )
        problem = empty._replace(readers=readers)
        if problem.measured:
            sites.append(site)
            problems.append(problem)
        else:
            skipped.append(site.name)
    settled = ", ".join(s.name for s in graph.channels if s not in known.sites)
    if settled:
        warnings.warn(
            f"left alone: {settled}: a convolution beside it has become part of another one",
            FoldWarning,
            stacklevel=5,
        )
    if skipped:
        warnings.warn(
            f"left alone: {', '.join(skipped)}: a reader's patch has more entries than moments "
            "are kept of (collect with limits=Limits(features=…)), or has linear channels alone",
            FoldWarning,
            stacklevel=5,
        )
    chains = tuple(
        chain._replace(moments=moments)
        for chain, moments in zip(known.chains, stats.moments, strict=True)
    )
    return known._replace(sites=tuple(sites), problems=tuple(problems), chains=chains)


def bare(graph: Graph, flat: pytree.Flat) -> Network:
    """Reads a network without evidence: problems and chains have no moments.

    Sites beside convolutions that have disappeared stay as they are.
    """
    everything = {c.name: kernels.read(c, flat) for c in graph.convolutions}
    widths = shapes.widths(graph, flat)
    groups = {conv.name: conv.groups for conv in graph.convolutions}
    sites = tuple(s for s in graph.channels if not vanished.settled(graph, s, flat))
    problems = []
    for site in sites:
        own = widths[site.name]
        readers = tuple(
            Reader(
                reading.consumer, rows(graph, flat, site, reading, widths), NOTHING,
                graph.in_chain(reading.consumer), groups.get(reading.consumer, 1),
            )
            for reading in site.readings
        )  # fmt: skip
        problems.append(Problem(site.name, own.units, own.linears, readers, site.groups))
    chains = tuple(
        ChainProblem(read_chain(graph, flat, chain), NOTHING, len(chain.layers[-1]) == 1)
        for chain in graph.chains
    )
    return Network(graph, flat, everything, widths, sites, tuple(problems), chains)


def landscape(network: Network) -> Landscape:
    """Prices all sites and chains of a network."""
    bare = skeleton(network)
    return bare._replace(
        surfaces=tuple(surface(p, sights(p)) for p in network.problems),
        chains=tuple(
            chain._replace(prices=prices(problem, chain_ridge(problem) * spread(problem)))
            for chain, problem in zip(bare.chains, network.chains, strict=True)
        ),
    )


def skeleton(network: Network) -> Landscape:
    """Returns what a network's widths cost in parameters; nothing is known of errors."""
    graph, flat = network.graph, network.flat
    index = {site.name: i for i, site in enumerate(network.sites)}
    feeds = _feeds(network)
    reads, fixed_convs = [], 0
    for conv in graph.convolutions:
        if conv.name in index:
            continue
        kernel = network.kernels[conv.name]
        outputs = kernel.kernel.shape[2] + kernel.linear.shape[2]
        fixed_convs += outputs
        taps, inputs, _ = kernel.kernel.shape
        sources = feeds.get(conv.name, ())
        others = _others(network, sources, inputs)
        reads += [Read(source, taps * outputs / conv.groups) for source in sources]
        fixed_convs += taps * others * outputs // conv.groups
    dense = {r.name: r for p in network.problems for r in p.readers if not r.chained}
    for name in dense.keys() - network.kernels.keys():
        taps, _, outputs = dense[name].rows.shape
        inputs = jnp.size(flat[graph.affine(name).kernel]) // (taps * outputs)
        others = _others(network, feeds[name], inputs)
        reads += [Read(source, taps * outputs) for source in feeds[name]]
        fixed_convs += outputs * (1 + taps * others)
    chains = tuple(
        _chained(network, chain_problem, chain, index)
        for chain_problem, chain in zip(network.chains, graph.chains, strict=True)
    )
    priced = pytree.foldable_paths(graph) | pytree.channel_paths(graph)
    fixed = count([leaf for path, leaf in flat.items() if path not in priced])
    return Landscape(
        surfaces=(),
        starts=tuple(p.channels for p in network.problems),
        costs=tuple(_cost(network, site, feeds) for site in network.sites),
        reads=tuple(reads),
        chains=chains,
        fixed=fixed + fixed_convs + _beside(network),
    )


def _beside(network: Network) -> int:
    """Entries of activations' parameters that belong to channels of no site, but stand beside some.

    They are those of an input, say, that batch norm scales behind a concatenation.
    """
    flat = network.flat
    paths = {leaf.path for site in network.graph.channels for leaf in site.unit_leaves}
    total = sum(jnp.size(flat[path]) for path in paths & flat.keys())
    for site, problem in zip(network.sites, network.problems, strict=True):
        total -= problem.units * _slices(network, site)
    return total


def _slices(network: Network, site: ChannelSite) -> int:
    """Parameters of a site's activation for each unit."""
    shapes = (
        (jnp.shape(network.flat[leaf.path]), leaf.axis)
        for leaf in site.unit_leaves
        if leaf.path in network.flat
    )
    return sum(math.prod(shape) // max(shape[axis], 1) for shape, axis in shapes)


def _feeds(network: Network) -> dict[str, tuple[int, ...]]:
    """The sites whose channels are read, by reader: several where they are concatenated."""
    found: dict[str, tuple[int, ...]] = {}
    for i, site in enumerate(network.sites):
        for reading in site.readings:
            found[reading.consumer] = (*found.get(reading.consumer, ()), i)
    return found


def _others(network: Network, sources: tuple[int, ...], inputs: int) -> int:
    """How many channels something reads beside those of sites."""
    return inputs - sum(network.problems[i].channels for i in sources)


def _cost(network: Network, site: ChannelSite, feeds: dict[str, tuple[int, ...]]) -> Cost:
    kernel = network.kernels[site.producer]
    taps, inputs, _ = kernel.kernel.shape
    sources = feeds.get(site.producer, ())
    groups = network.graph.convolution(site.producer).groups
    others = _others(network, sources, inputs)
    return Cost(taps / groups, others, sources, 1 + _slices(network, site), 1, site.groups)


def _chained(
    network: Network, problem: ChainProblem, chain: Chain, index: dict[str, int]
) -> Chained:
    feeds = feeding(network, chain)
    layers = problem.layers
    made = tuple(1 + len(layer.mates) for layer in layers)
    priced = Prices(layers[0].reads, shape_of(layers), made, (), (), 0.0)
    places = next((reading.outer * reading.inner for reading, _ in feeds), 1)
    sources = tuple(index[site.name] for _, site in feeds)
    others = _others(network, sources, layers[0].reads // places)
    return Chained(priced, sources, others, places)


def feeding(network: Network, chain: Chain) -> list[tuple[Reading, ChannelSite]]:
    """Returns the sites that a chain reads, and how, of those that can fold."""
    return [
        (reading, site)
        for site in network.sites
        for reading in site.readings
        if reading.consumer in chain.layers[0]
    ]


def chain_ridge(problem: ChainProblem) -> float:
    """Returns the shrinkage that a chain is refitted with."""
    return ridge_for(float(np.sum(problem.moments.count)), problem.moments.mean.shape[1])


def chain_frame(problem: ChainProblem) -> Any:
    """Returns the moments that a chain is refitted by."""
    return shrunk(problem, chain_ridge(problem))
