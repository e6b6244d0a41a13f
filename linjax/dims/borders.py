"""How much of what a convolution reads is no coordinate at all: padding, and holes of dilation."""

from typing import Any

import numpy as np

from linjax.dims.network import Network
from linjax.dims.sites import Product, Site


def seen(network: Network, product: Product) -> np.ndarray:
    """Share of a kernel's reads, over all places, that see data: by tap, ones along other axes."""
    op = network.layout.makers[product.op]
    if op.name != "conv_general_dilated":
        return np.ones(())
    numbers: Any = op.params["dimension_numbers"]
    source, kernel = (network.layout.operand(op, k).spans for k in (0, 1))
    result, share = network.layout.values[product.op].spans, np.ones((1,) * len(kernel))
    for n, (low, _) in enumerate(op.params["padding"]):
        axis = numbers.rhs_spec[n + 2]
        places, taps = result[numbers.out_spec[n + 2]].size, kernel[axis].size
        holes = op.params["lhs_dilation"][n]
        at = np.arange(places)[:, None] * op.params["window_strides"][n] - low
        at = at + np.arange(taps) * op.params["rhs_dilation"][n]
        last = (source[numbers.lhs_spec[n + 2]].size - 1) * holes
        if at.size:
            found = np.mean((at >= 0) & (at <= last) & (at % holes == 0), axis=0)
            share = share * found.reshape([taps if k == axis else 1 for k in range(len(kernel))])
    return share


def padded(network: Network, site: Site, value: int) -> float:
    """Share of what a site's readers see at one of its points that is no coordinate, on average."""
    makers = network.layout.makers
    found = [
        1.0 - float(seen(network, reader).mean())
        for reader in site.readers
        if reader.leaf is not None
        and getattr(makers[reader.op].inputs[reader.data], "id", None) == value
    ]
    return float(np.mean(found)) if found else 0.0
