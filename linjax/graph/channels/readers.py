"""What readers of channels do with them, whatever they are: convolutions or dense layers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from linjax.graph.chains import read_chain
from linjax.graph.channels import kernels
from linjax.graph.channels.members import Width, run_of
from linjax.graph.pytree import Flat
from linjax.graph.structure import ChannelSite, Graph, Reading

Array = Any


def rows(
    graph: Graph, flat: Flat, site: ChannelSite, reading: Reading, widths: Mapping[str, Width]
) -> Array:
    """Returns what a reader does with a site's channels, ``(taps, channels, q)``: units come first.

    Behind a bottleneck, the product with it is meant.
    """
    run = run_of(reading.members, widths, site.name)
    return _whole(graph, flat, reading, run.whole)[:, run.channels]


def _whole(graph: Graph, flat: Flat, reading: Reading, width: Width) -> Array:
    """What it does with all channels that it reads."""
    found = next((conv for conv in graph.convolutions if conv.name == reading.consumer), None)
    if found is not None:
        kernel = kernels.read(found, flat)
        return np.concatenate([kernel.kernel, kernel.linear], axis=2)
    if not graph.in_chain(reading.consumer):
        return kernels.read_rows(graph.affine(reading.consumer), reading, flat, width)
    chain = next(c for c in graph.chains if reading.consumer in c.layers[0])
    layer = read_chain(graph, flat, chain)[0]
    kernel = layer.kernel if layer.down is None else layer.down @ layer.kernel
    return kernels.by_tap(kernel, reading, width)
