"""How much is spent on sensitivities: all derivatives at all places, less where that is too much.

For images of many places and layers of many channels the derivatives and their outer products
would take many times what everything else takes. Then, in this order, places, random signs and
examples are fewer. Where rows are drawn (:mod:`linjax.evidence.drawn`) each has one direction.
"""

import functools
import math
from typing import NamedTuple

import jax

from linjax.dims.layout import Layout, number
from linjax.dims.network import Network
from linjax.dims.reads import results
from linjax.dims.remembered import remembered
from linjax.evidence.points import point_spans, reads
from linjax.program.flat import Op

WORK = 2e12
"""Operations that sensitivities may take in all, over as many batches as they are taken from."""
PROBES = 8
"""Random signs an example."""
PLACES = 64
"""Places of an example that derivatives are taken up at, where all are too many."""
FEWEST = 48
"""Examples in all that sensitivities are measured on, whatever it takes."""
BYTES = 1 << 30
"""Memory that derivatives may take at a time."""


class Effort(NamedTuple):
    """What sensitivities are measured with.

    Attributes:
      places: of an example that derivatives are taken up at, None for all of them.
      probes: random signs an example.
      examples: how many of them.
      together: how many at a time.
    """

    places: int | None
    probes: int
    examples: int
    together: int


class Costs(NamedTuple):
    """What an example takes.

    Attributes:
      forward: operations of the network's products.
      entries: numbers at all places of evidence.
      widths: by place of evidence, how many places it is of, and numbers at each.
    """

    forward: float
    entries: int
    widths: tuple[tuple[float, int], ...]


def effort(network: Network, examples: int, parts: int = 1, most: int = PROBES) -> Effort:
    """Returns what sensitivities are measured with on some rows.

    Args:
      network: the network, traced for such rows.
      examples: how many there are.
      parts: of how many such sets of rows these are one.
      most: random signs an example at most.
    """
    own, work = costs(network), WORK / parts
    fewest = min(examples, -(-FEWEST * PROBES // (parts * most)))
    signs = dict.fromkeys(max(most // share, 1) for share in (1, 2, 4))
    for places, probes in ((None, most), *((PLACES, n) for n in signs)):
        within = int(work / max(_once(own, places, probes), 1.0))
        if within >= examples:
            break
    chosen = max(min(examples, within), fewest)
    space = max(int(BYTES / (4 * max(own.entries, 1) * (probes + 1))), 1)
    chunks = -(-chosen // space)
    together = -(-chosen // chunks)
    return Effort(places, probes, chosen, together)


def _once(own: Costs, places: int | None, probes: int) -> float:
    """Operations for an example: forwards, and for each sign backwards and products."""
    most = math.inf if places is None else places
    products = sum(2 * min(n, most) * q * q for n, q in own.widths)
    return own.forward + probes * (2 * own.forward + products)


@remembered
def costs(network: Network) -> Costs:
    """What an example takes, at the sizes that the network was traced with."""
    layout, avals = network.layout, network.layout.program.avals
    rows = [avals[ref.id].shape[:1] for ref in layout.inputs]
    examples = max((shape[0] for shape in rows if shape), default=1) or 1
    forward = 0.0
    for op in layout.program.all_ops():
        if op.name in ("dot_general", "conv_general_dilated"):
            steps = math.prod(span.size for span in layout.steps[number(op)])
            forward += 2.0 * steps * math.prod(avals[number(op)].shape) * _summed(layout, op)
    widths = []
    for site in network.foldable:
        for point in site.points:
            entries = math.prod(span.size for span in point_spans(layout, point))
            widths.append((entries / site.width / examples, site.width))
    for read in reads(network):
        shape = [span.size for span in point_spans(layout, read.op)]
        found = jax.eval_shape(
            functools.partial(results, read.frame), jax.ShapeDtypeStruct(shape, "float32")
        )
        widths.append((math.prod(found.shape[:2]) / examples, found.shape[2]))
    entries = math.ceil(sum(n * q for n, q in widths))
    return Costs(forward / examples, entries, tuple(widths))


def _summed(layout: Layout, op: Op) -> int:
    """How many products an entry of a product is the sum of."""
    if op.name == "dot_general":
        (contract, _), _ = op.params["dimension_numbers"]
        return math.prod(layout.program.shape(op.inputs[0])[n] for n in contract)
    _, read, *space = op.params["dimension_numbers"].rhs_spec
    return math.prod(layout.program.shape(op.inputs[1])[n] for n in (read, *space))
