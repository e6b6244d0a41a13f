"""Convolutions that have disappeared: pytrees without any leaf of theirs.

What such a convolution made was linear, and is multiplied into the kernels of its readers. As for
dense layers, its channels are its input. A pointwise one still steps over places by its strides.
Any other has pointwise readers, whose kernels have its window and slide over its input as it did.
"""

from typing import Any

import jax.numpy as jnp

from linjax.graph.maps import Convolution
from linjax.graph.program import Op
from linjax.graph.pytree import Flat
from linjax.graph.structure import ChannelSite, Graph

Array = Any


def gone(conv: Convolution, flat: Flat) -> bool:
    """Whether a convolution has no kernel left."""
    return conv.kernel not in flat and conv.extra("linear") not in flat


def may_vanish(graph: Graph, site: ChannelSite) -> bool:
    """Whether the readers of a site's channels could read what its producer reads, instead."""
    readers = [reading.consumer for reading in site.readings]
    if not site.straight or any(map(graph.in_chain, readers)) or _concatenated(graph, site):
        return False
    pointwise = {conv.name for conv in graph.convolutions if conv.pointwise}
    return site.producer in pointwise or (not site.steps and pointwise.issuperset(readers))


def _concatenated(graph: Graph, site: ChannelSite) -> bool:
    """Whether other channels are read beside a site's, or beside what its producer reads."""
    return any(
        reading.members
        for other in graph.channels
        for reading in other.readings
        if other is site or reading.consumer == site.producer
    )


def settled(graph: Graph, site: ChannelSite, flat: Flat) -> bool:
    """Whether a site is behind a convolution that has disappeared, or in front of one."""
    around = {site.producer, *(reading.consumer for reading in site.readings)}
    return any(conv.name in around and gone(conv, flat) for conv in graph.convolutions)


def source(graph: Graph, conv: Convolution) -> ChannelSite | None:
    """Returns the site whose channels a convolution reads."""
    reads = (s for s in graph.channels if any(r.consumer == conv.name for r in s.readings))
    return next(reads, None)


def slides_as(graph: Graph, conv: Convolution, flat: Flat) -> Convolution:
    """Returns the convolution whose window a kernel has: its own, or one that has disappeared."""
    site = source(graph, conv)
    producer = conv if site is None else graph.convolution(site.producer)
    return conv if producer.pointwise or not gone(producer, flat) else producer


def stepped(op: Op, value: Array) -> Array:
    """What a pointwise convolution without a kernel makes of its operand."""
    numbers = op.params["dimension_numbers"]
    steps = [slice(None)] * value.ndim
    for axis, stride in zip(numbers.lhs_spec[2:], op.params["window_strides"], strict=True):
        steps[axis] = slice(None, None, stride)
    return arranged(op, value[tuple(steps)])


def arranged(op: Op, value: Array) -> Array:
    """Moves axes from where a convolution reads them to where its result has them."""
    numbers = op.params["dimension_numbers"]
    pairs = sorted(zip(numbers.out_spec, numbers.lhs_spec, strict=True))
    return jnp.transpose(value, [axis for _, axis in pairs])


def strides(first: Op, second: Op) -> tuple[int, ...]:
    """Returns the strides of two convolutions in a row, the second one pointwise."""
    axes = second.params["dimension_numbers"].lhs_spec[2:]
    own = dict(zip(axes, second.params["window_strides"], strict=True))
    space = first.params["dimension_numbers"].out_spec[2:]
    return tuple(
        stride * own[axis]
        for axis, stride in zip(space, first.params["window_strides"], strict=True)
    )
