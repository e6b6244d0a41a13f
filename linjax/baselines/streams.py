"""The blocks of a residual network: what is added to a stream, and which sites it goes through."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.replay import order
from linjax.dims.run import execute
from linjax.dims.values import Source
from linjax.net import Net
from linjax.program import pytree
from linjax.program.flat import Ref
from linjax.program.placed import inputs_of

Array = np.ndarray


class Block(NamedTuple):
    """What a stream is read for, up to where it is added.

    Attributes:
      before: number of the stream's value in front.
      branch: of what is added to it.
      after: of their sum.
      sites: indices of the foldable sites read inside.
    """

    before: int
    branch: int
    after: int
    sites: tuple[int, ...]


def blocks_of(network: Network) -> list[Block]:
    """Finds additions of a value and of something that was made of it, in order."""
    layout = network.layout
    place = order(network)
    behind: dict[int, set[int]] = {}
    found: list[tuple[int, int, int]] = []
    for op in layout.program.all_ops():
        refs = [o.id for o in op.inputs if isinstance(o, Ref)]
        own = set(refs).union(*(behind.get(r, set()) for r in refs))
        behind.update((ref.id, own) for ref in op.outputs)
        if op.name not in ("add", "add_any") or len(refs) < 2 or layout.steps[number(op)]:
            continue
        if any(layout.values[r].source is not Source.DATA for r in refs):
            continue
        for before, branch in (refs, refs[::-1]):
            products = behind.get(branch, set()) & set(network.kernels)
            if before in behind.get(branch, set()) and products:
                found.append((before, branch, number(op)))
    reads = [max(place[p.op] for p in (*s.makers, *s.readers)) for s in network.foldable]
    result = []
    for before, branch, after in found:
        start = place.get(before, -1)
        inside = tuple(n for n, at in enumerate(reads) if start < at < place[after])
        result.append(Block(before, branch, after, inside))
    return result


def seen(
    net: Net, flat: pytree.Flat, batches: Iterable[Any]
) -> Iterator[tuple[Network, list[Array]]]:
    """By batch the network for as many rows, whose values have numbers of their own, and leaves."""
    for batch in batches:
        inputs = inputs_of(batch)
        yield net.network_for(flat, inputs), jax.tree.leaves(inputs)


def influence(net: Net, flat: pytree.Flat, batches: Iterable[Any]) -> Array:
    """How far each block turns the stream: ``1 − E cos(before, after)``.

    Reference: Men et al., ShortGPT, 2024, arXiv 2403.03853.
    """
    parts = [np.asarray(_cosines(own, flat, leaves)) for own, leaves in seen(net, flat, batches)]
    return np.asarray(1.0 - np.mean(parts, axis=0, dtype=np.float64))


@functools.partial(jax.jit, static_argnames="network")
def _cosines(network: Network, flat: Any, inputs: Any) -> Any:
    blocks = blocks_of(network)
    taps = frozenset(v for b in blocks for v in (b.before, b.after))
    values = execute(network, flat, inputs, taps).values
    found = []
    for block in blocks:
        x, y = values[block.before], values[block.after]
        norms = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1)
        found.append(jnp.mean(jnp.sum(x * y, -1) / jnp.maximum(norms, 1e-12)))
    return jnp.stack(found)
