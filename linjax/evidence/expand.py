"""The same network with every coordinate a second time, as it would arrive without activation."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp

from linjax.dims.leaves import leaf_of
from linjax.dims.network import Network
from linjax.dims.sites import Site
from linjax.dims.sizes import Flat, read_sizes
from linjax.dims.span import Cut, transform

Array = Any


class Expanded(NamedTuple):
    """Leaves of the same function in which linear coordinates come along, and whose those are.

    What reads them has zeros at those of ``dims``.
    """

    flat: dict[Any, Array]
    dims: frozenset[int]


def expanded(network: Network, flat: Flat, sites: Iterable[Site] | None = None) -> Expanded:
    """Returns leaves of the same function in which linear coordinates come along.

    What makes them is each kernel itself, and those that read them have zeros there. Sites
    that have linear coordinates already keep these.

    Args:
      network: the traced network.
      flat: its parameters.
      sites: those whose coordinates should come along; by default all that can.
    """
    now = read_sizes(network, flat)
    every = network.foldable if sites is None else sites
    able = (s for s in every if s.linear and now.kept[s.dim])
    chosen = [s for s in able if s.dim not in now.beside]
    makers = {maker.leaf for site in chosen for maker in site.makers}
    # A kernel whose bias alone is left makes nothing of what it reads.
    flat = {network.paths[n]: leaf_of(network, n, flat, now) for n in makers} | dict(flat)
    result = dict(flat)
    readers: dict[int, list[int]] = {}
    for site in chosen:
        for leaf in {reader.leaf for reader in site.readers}:
            readers.setdefault(leaf, []).append(site.dim)
    for leaf, read in readers.items():
        first = network.extra(leaf, "down")  # what reads, where there is one
        both = (network.paths[leaf], network.extra(leaf, "linear"))
        for path in (first,) if first in flat else both:
            if path in flat:
                result[path] = _doubled(network, flat[path], leaf, read, now.all)
    for site in chosen:
        for leaf in {maker.leaf for maker in site.makers}:
            result[network.extra(leaf, "linear")] = result[network.paths[leaf]]
    return Expanded(result, frozenset(site.dim for site in chosen))


def _doubled(network: Network, value: Array, leaf: int, dims: list[int], size: Any) -> Array:
    """A kernel with as many rows of zeros as it has for these dimensions."""
    spans, sizes = network.layout.leaves[leaf], dict[int, Any]()

    def doubled(x: Array) -> Array:
        return jnp.concatenate([x, jnp.zeros_like(x)], axis=-1)

    for dim in dims:
        cut = Cut(dim, (), lambda d: sizes.get(d, size(d)), doubled)
        value = transform(jnp.asarray(value), spans, cut)
        sizes[dim] = 2 * size(dim)
    return value
