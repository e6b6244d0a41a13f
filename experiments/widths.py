"""What became of each layer, read off a folded pytree."""

from typing import Any

import numpy as np

from linjax.graph.chains import read_chain
from linjax.graph.channels import shapes
from linjax.graph.pytree import flatten

BINS = 20  # of the histograms of activation rates


def describe(net: Any, params: Any) -> dict[str, list]:
    """Returns, for each site of a network, what its parameters leave of it.

    Returns:
      ``layers``: names of the sites; ``units``: how many keep their activation; ``linear``:
      how many linear units stand beside them; ``bottleneck``: the rank through which the
      layer reads its input, 0 if it reads it directly.
    """
    flat = flatten(params)
    channels = [(site.name, shapes.width(site, net.graph, flat)) for site in net.graph.channels]
    everything: list[tuple[str, Any]] = [*channels]
    found = [
        (site.name, layer)
        for chain in net.graph.chains
        for site, layer in zip(chain.sites, read_chain(net.graph, flat, chain), strict=False)
    ]
    everything += found
    return {
        "layers": [name for name, _ in everything],
        "units": [layer.units for _, layer in everything],
        "linear": [layer.linears for _, layer in everything],
        "bottleneck": [0] * len(channels)
        + [0 if layer.down is None else layer.down.shape[1] for _, layer in found],
    }


def histograms(rates: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """Returns how many units of each layer are on how often: counts in equal parts of [0, 1].

    >>> histograms({"in": np.array([0.0, 0.02, 1.0])})["in"][:2]
    [2, 0]
    """
    return {name: np.histogram(rate, BINS, (0.0, 1.0))[0].tolist() for name, rate in rates.items()}
