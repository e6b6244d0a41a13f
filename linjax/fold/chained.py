"""Chains of dense layers rewritten as layers: read from the pytree, changed, written back."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.chains.flow import settled, units, unread
from linjax.chains.layers import Layers
from linjax.chains.reading import read_chain, write_chain
from linjax.chains.structure import Chain, Graph, Site
from linjax.errors import warn
from linjax.evidence.stats import Stats, UnitStats
from linjax.fold.lossless.proportional import visible
from linjax.fold.published import fold_published, lowered
from linjax.fold.report import Report, SiteChange, change
from linjax.fold.rules import PublishedSize, Threshold
from linjax.program import pytree
from linjax.program.count import count
from linjax.program.precision import coarsest, lost
from linjax.program.pytree import Flat, join


def published(params: Any, stats: Stats, rule: Threshold | PublishedSize) -> tuple[Any, Report]:
    """Folds the chains of a network by a published rule."""
    rates = _foldable_rates(stats)
    flat, graph = stats.network.flatten(params), stats.graph
    own = {chain: [rates[site.name] for site in chain.sites] for chain in graph.chains}
    if isinstance(rule, PublishedSize):
        chains = [
            c for c in graph.chains if not (unread(graph, c, flat) or settled(graph, c, flat))
        ]
        rule = lowered([(read_chain(graph, flat, c), own[c]) for c in chains], rule)

    def apply(chain: Chain, layers: Layers) -> Layers:
        return fold_published(layers, own[chain], rule)[0]

    return transform(params, flat, graph, apply)


def _foldable_rates(stats: Stats) -> dict[str, Any]:
    """Activation rates where ``σ(z) = z`` for ``z > 0``; elsewhere no unit may fold by rate."""
    rates, other = {}, []
    for site in stats.graph.sites:
        units = units_of(stats, site)
        if units is None:
            rates[site.name] = np.full(site.width, -1.0)
        elif site.activation.identity_above:
            rates[site.name] = units.rate
        else:
            rates[site.name] = np.full(len(units.active), -1.0)
            other.append(f"{site.name} ({site.activation.name})")
    if not rates:
        warn(
            "left alone: the published rule folds chains of dense layers; fold this network by "
            "linjax.size or linjax.tolerance"
        )
    if other:
        warn(
            f"left alone: {', '.join(other)}: a unit that is always on isn't linear there; "
            "fold by linjax.size or linjax.tolerance"
        )
    return rates


def units_of(stats: Stats, site: Site) -> UnitStats | None:
    """Statistics of the units of a chain's site; none of a single unit, which stays."""
    kernel = stats.graph.affine(site.producer).kernel
    leaf = stats.network.paths.index(kernel)
    names = (s.name for s in stats.sites if any(m.leaf == leaf for m in s.makers))
    own = next(names, None)
    return None if own is None else stats.units[own]


def transform(
    params: Any, flat: Flat, graph: Graph, rewrite: Callable[[Chain, Layers], Layers]
) -> tuple[Any, Report]:
    """Rewrites every chain of a network; returns the new pytree, a nested dict, and a report.

    Args:
      params: its pytree.
      flat: the leaves of that as the network takes them.
      graph: its chains; those that can't be read from such leaves are left alone.
      rewrite: what to do with a chain.
    """
    sites = {}
    for chain in graph.chains:
        if unread(graph, chain, flat):
            for site, n in zip(chain.sites, units(graph, chain, flat), strict=True):
                sites[site.name] = SiteChange(n, np.arange(n), 0, False)
            continue
        before = after = read_chain(graph, flat, chain)
        if not settled(graph, chain, flat):
            after = rewrite(chain, before)
            if not _held(graph, flat, chain, after):
                after = before
            flat = write_chain(graph, flat, chain, after)
        for site, old, new in zip(chain.sites, before, after, strict=False):
            sites[site.name] = change(old, new)
    folded = pytree.unflatten(flat, like=params)
    return folded, Report(graph, sites, count(params), count(folded))


def _held(graph: Graph, flat: Flat, chain: Chain, layers: Layers) -> bool:
    """Whether a chain's new kernels can be held in its dtype; says so where they can't.

    Products of kernels overflow, or vanish, where the kernels themselves don't.
    """
    kernels = [graph.affine(name).kernel for name in chain.maps]
    own = [jnp.result_type(flat[path]) for path in kernels if path in flat]
    dtypes = [dtype for dtype in own if jnp.issubdtype(dtype, jnp.floating)]
    dtype = coarsest(dtypes, np.float64)
    for layer in layers:
        mates = [kernel for kernel, _ in layer.mates]
        for kernel in (layer.kernel, layer.linear, layer.down, *mates):
            if kernel is None:
                continue
            wide = np.asarray(kernel).astype(np.float64)
            scale = np.max(np.abs(wide), axis=0, initial=0.0)
            most = np.max(lost(wide, dtype), axis=0, initial=0.0)
            if not (most <= visible(dtype) * scale).all():  # what isn't a number, too
                warn(
                    f"left alone: the chain of {', '.join(map(join, kernels))}: products of its "
                    f"kernels are too large or too small for {np.dtype(dtype)}; scale "
                    "them, or cast them to a wider dtype first"
                )
                return False
    return True
