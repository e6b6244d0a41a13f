"""How much of what a convolution reads is no coordinate at all: padding, and holes of dilation."""

from typing import Any

import numpy as np

from linjax.dims.network import Network
from linjax.dims.sites import Product, Site


def border(network: Network, product: Product) -> float:
    """Share of a product's reads, over all places and taps, that see zeros instead of data."""
    op = network.layout.makers[product.op]
    if op.name != "conv_general_dilated":
        return 0.0
    numbers: Any = op.params["dimension_numbers"]
    source, kernel = (network.layout.operand(op, k).spans for k in (0, 1))
    result = network.layout.values[product.op].spans
    seen = 1.0
    for n, (low, _) in enumerate(op.params["padding"]):
        places, taps = result[numbers.out_spec[n + 2]].size, kernel[numbers.rhs_spec[n + 2]].size
        holes = op.params["lhs_dilation"][n]
        at = np.arange(places)[:, None] * op.params["window_strides"][n] - low
        at = at + np.arange(taps) * op.params["rhs_dilation"][n]
        last = (source[numbers.lhs_spec[n + 2]].size - 1) * holes
        seen *= np.mean((at >= 0) & (at <= last) & (at % holes == 0)) if at.size else 1.0
    return 1.0 - float(seen)


def padded(network: Network, site: Site, value: int) -> float:
    """Share of what a site's readers see at one of its points that is no coordinate, on average."""
    makers = network.layout.makers
    found = [
        border(network, reader)
        for reader in site.readers
        if reader.leaf is not None
        and getattr(makers[reader.op].inputs[reader.data], "id", None) == value
    ]
    return float(np.mean(found)) if found else 0.0
