"""Two convolutions with nothing but linear channels between them as one, where that is smaller.

Exactly so, on all inputs, where one of the two is pointwise: the kernel of the other is multiplied
with it. Two larger windows would make a larger one still, which hardly ever has fewer parameters.
If the second one is pointwise, it reads no border, and the first one's bias can be taken along. If
only the first one is, its bias can where nothing behind it is padded, pooled or summed: a border of
zeros isn't one of biases.
"""

import numpy as np

from linjax.fold.report import SiteChange
from linjax.graph import pytree
from linjax.graph.channels import kernels, shapes, vanished
from linjax.graph.channels.kernels import Kernel
from linjax.graph.channels.members import Width
from linjax.graph.count import count
from linjax.graph.maps import Convolution
from linjax.graph.structure import ChannelSite, Graph, Reading

Array = np.ndarray

SELECTIONS = {"reshape", "transpose", "squeeze", "broadcast_in_dim", "slice", "rev", "gather"}
"""Channelwise operations that move values about and change none."""


def composed(graph: Graph, flat: pytree.Flat) -> pytree.Flat:
    """Returns the pytree with linear convolutions composed wherever that makes it smaller."""
    for site in graph.channels:
        smaller = multiplied(graph, flat, site)
        if smaller is not None and count(smaller) < count(flat):
            flat = smaller
    return flat


def told(graph: Graph, flat: pytree.Flat, changes: dict[str, SiteChange]) -> dict[str, SiteChange]:
    """Returns what became of every site, those whose convolution has disappeared as they are."""
    changes = dict(changes)
    for site in graph.channels:
        if site.name in changes and vanished.gone(graph.convolution(site.producer), flat):
            linears = shapes.width(site, graph, flat).total
            none = np.zeros(0, int)
            changes[site.name] = changes[site.name]._replace(kept=none, linears=linears)
    return changes


def multiplied(graph: Graph, flat: pytree.Flat, site: ChannelSite) -> pytree.Flat | None:
    """Multiplies a site's convolution into its readers; returns None where that isn't exact."""
    producer = graph.convolution(site.producer)
    slides = vanished.slides_as(graph, producer, flat)
    if vanished.settled(graph, site, flat) or slides is not producer:
        return None
    own = shapes.width(site, graph, flat)
    if not vanished.may_vanish(graph, site) or not _linear(site, own):
        return None
    first = kernels.read(producer, flat)
    kernel = np.concatenate([first.kernel, first.linear], axis=2)
    bias = np.concatenate([first.bias, first.linear_bias])
    if producer.pointwise and np.any(bias) and not _level(graph, site):
        return None
    for reading in site.readings:
        flat = _reads(graph, flat, reading, producer, own, kernel, bias)
    return kernels.without(producer, flat)


def _linear(site: ChannelSite, own: Width) -> bool:
    """Whether no channel has an activation that bends, nor anything that scales it behind."""
    identity = site.activation.slopes == (1.0, 1.0) and not site.unit_leaves
    return own.units == 0 or (identity and set(site.steps) <= SELECTIONS)


def _level(graph: Graph, site: ChannelSite) -> bool:
    """Whether a constant added to the channels is the same constant wherever they are read."""
    readers = {reading.consumer for reading in site.readings}
    padded = any(conv.padded for conv in graph.convolutions if conv.name in readers)
    return not padded and set(site.steps) <= SELECTIONS


def _reads(
    graph: Graph, flat: pytree.Flat, reading: Reading, producer: Convolution, own: Width,
    kernel: Array, bias: Array,
) -> pytree.Flat:  # fmt: skip
    """The pytree with a reader that reads the producer's input."""
    inputs = kernel.shape[1]
    reader = next((c for c in graph.convolutions if c.name == reading.consumer), None)
    if reader is None:
        affine = graph.affine(reading.consumer)
        rows = kernels.read_rows(affine, reading, flat, own)
        shift = bias @ rows.sum(0)
        total = np.asarray(flat.get(affine.bias_path, 0.0), np.float64) + shift
        rows = _product(kernel, rows)
        return kernels.write_rows(affine, reading, flat, rows, Width(0, inputs), total)
    second = kernels.read(reader, flat)
    made = Kernel(
        _product(kernel, second.kernel),
        second.bias + bias @ second.kernel.sum(0),
        _product(kernel, second.linear),
        second.linear_bias + bias @ second.linear.sum(0),
    )
    window = reader.window if producer.pointwise else producer.window
    return kernels.write(reader, flat, made, window)


def _product(first: Array, second: Array) -> Array:
    """Kernels ``(taps, p, c)`` and ``(taps, c, q)`` as one; one of the two has a single tap."""
    taps = len(first) * len(second)
    product = np.einsum("spc,tcq->stpq", first, second, optimize=True)
    return product.reshape(taps, first.shape[1], second.shape[2])
