"""How much memory a network's values take for every row."""

import math

from linjax.dims.layout import Layout
from linjax.dims.network import Network
from linjax.dims.remembered import remembered
from linjax.dims.replay import anchors, wiring
from linjax.dims.values import Source


@remembered
def largest(network: Network) -> float:
    """Bytes of the largest value, for every row."""
    sizes = _sizes(network.layout)
    return max(sizes.values(), default=0.0)


@remembered
def replayed(network: Network) -> float:
    """Bytes that a replay in the order of execution holds at most, for every row."""
    links, sizes = wiring(network), _sizes(network.layout)
    changes = [0.0] * (len(network.layout.program.ops) + 1)
    kept = anchors(network)
    for value, size in sizes.items():
        if value not in links.at:
            continue
        made, last = links.at[value], max(links.users.get(value, ()), default=-1)
        if value in kept or last > made + 1:
            changes[made] += size
            changes[max(last, made) + 1] -= size
    held = most = 0.0
    for change in changes:
        held += change
        most = max(most, held)
    return most + 2 * largest(network)


def _sizes(layout: Layout) -> dict[int, float]:
    """Bytes for every row of the outermost values that depend on the inputs."""
    avals = layout.program.avals
    rows = [avals[ref.id].shape[0] for ref in layout.inputs if avals[ref.id].shape]
    count = max([1, *rows])
    return {
        ref.id: math.prod(avals[ref.id].shape) * avals[ref.id].dtype.itemsize / count
        for op in layout.program.ops
        for ref in op.outputs
        if layout.values[ref.id].source is Source.DATA
    }
