"""What became of each layer, read off a folded pytree."""

from typing import Any

import numpy as np

from linjax.dims.network import Network
from linjax.dims.sites import Site
from linjax.dims.sizes import read_sizes
from linjax.program.pytree import Flat, flatten

BINS = 20  # of the histograms of activation rates


def describe(net: Any, params: Any) -> dict[str, list]:
    """Returns, for each site of a network, what its parameters leave of it.

    Returns:
      ``layers``: names of the sites; ``units``: how many keep their activation; ``linear``:
      how many linear units stand beside them; ``bottleneck``: the rank through which the
      layer reads its input, 0 if it reads it directly.
    """
    flat = flatten(params)
    found = _dimensions(net.network, flat)
    return {
        "layers": [name for name, *_ in found],
        "units": [units for _, units, _, _ in found],
        "linear": [linears for _, _, linears, _ in found],
        "bottleneck": [rank for *_, rank in found],
    }


Width = tuple[str, int, int, int]


def _dimensions(network: Network, flat: Flat) -> list[Width]:
    sizes = read_sizes(network, flat)
    return [
        (site.name, sizes.kept[site.dim], sizes.beside.get(site.dim, 0), _rank(network, site, flat))
        for site in network.foldable
    ]


def _rank(network: Network, site: Site, flat: Flat) -> int:
    """The smallest rank of the kernels that make a site, of those in two factors."""
    ranks = []
    for leaf in {maker.leaf for maker in site.makers} - {None}:
        down = flat.get(network.extra(leaf, "down"))
        if down is not None:
            spans = network.layout.leaves[leaf]
            ranks.append(down.shape[next(n for n, s in enumerate(spans) if site.dim in s.dims())])
    return min(ranks, default=0)


def histograms(rates: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """Returns how many units of each layer are on how often: counts in equal parts of [0, 1].

    >>> histograms({"in": np.array([0.0, 0.02, 1.0])})["in"][:2]
    [2, 0]
    """
    return {name: np.histogram(rate, BINS, (0.0, 1.0))[0].tolist() for name, rate in rates.items()}
