"""What readers of channels do with them, whatever they are: convolutions or dense layers."""

from typing import Any

import numpy as np

from linjax.graph.chains import read_chain
from linjax.graph.channels import kernels
from linjax.graph.channels.shapes import Width
from linjax.graph.pytree import Flat
from linjax.graph.structure import Graph, Reading

Array = Any


def rows(graph: Graph, flat: Flat, reading: Reading, own: Width) -> Array:
    """Returns what a reader does with channels, ``(taps, channels, q)``: units come first.

    Behind a bottleneck, the product with it is meant.
    """
    found = next((conv for conv in graph.convolutions if conv.name == reading.consumer), None)
    if found is not None:
        kernel = kernels.read(found, flat)
        return np.concatenate([kernel.kernel, kernel.linear], axis=2)
    if not graph.in_chain(reading.consumer):
        return kernels.read_rows(graph.affine(reading.consumer), reading, flat, own)
    chain = next(c for c in graph.chains if reading.consumer in c.layers[0])
    layer = read_chain(graph, flat, chain)[0]
    kernel = layer.kernel if layer.down is None else layer.down @ layer.kernel
    return kernels.by_tap(kernel, reading, own)
