"""Blocks of a residual network replaced by a linear map, which the block before them takes up."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.baselines.budget import Evidence, unfolded
from linjax.baselines.streams import Block, blocks_of, seen
from linjax.dims.network import Network
from linjax.dims.reads import frame_of, matrix_index
from linjax.dims.run import execute
from linjax.errors import LinjaxError
from linjax.fold.engine.linalg import solve
from linjax.fold.rules import Size
from linjax.net import Net
from linjax.program import pytree

Array = np.ndarray

Part = tuple[Network, list[Any]]

RIDGE = 1e-6


def replaced(net: Net, params: Any, stats: Evidence, batches: Iterable[Any], rule: Size) -> Any:
    """Removes the run of blocks behind which the stream is most alike, and refits what is before.

    With M what the block before the run adds to the stream x, ``M T ≈ y − x`` by least squares, y
    the stream behind the run, and T goes into the kernel that makes M. Blocks are what is added
    to the stream at once (attention, or a feed-forward network; the paper's are pairs of these);
    of those removed the norms stay. It removes as few as the size asks for.

    Reference: Shopkhoev et al., ReplaceMe: Network simplification via depth pruning and
    transformer block linearization, 2025, arXiv 2505.02819.

    Raises:
      LinjaxError: if there are no such blocks, or not enough.
    """
    known = unfolded(params, stats)
    network, flat, prices = net.network, net.network.flatten(params), known.prices(rule)
    blocks, problems = blocks_of(network), known.problems
    if not all(block.branch in network.kernels for block in blocks) or len(blocks) < 2:
        raise LinjaxError("no blocks whose last product is added to a stream as it is")
    parts = list(seen(net, flat, batches))
    runs = _runs(flat, parts)
    widths = [p.width for p in problems.problems]
    for count in range(1, len(blocks)):
        first = max((score, at) for (at, length), score in runs.items() if length == count)[1]
        gone = {n for block in blocks[first : first + count] for n in block.sites}
        units = tuple(0 if n in gone else width for n, width in enumerate(widths))
        cost = prices.cost(prices.start._replace(units=units))
        if cost <= rule.fraction * prices.cost(prices.start):
            break
    else:
        raise LinjaxError(f"{rule}: without all blocks but one it is still more")
    linear = _linear(flat, parts, first - 1, first + count - 1)
    path, value = _mapped(network, flat, blocks[first - 1], linear)
    flat[path] = jnp.asarray(value)
    dims = {problems.sites[n].dim for n in gone}
    for leaf, spans in zip(network.paths, network.layout.leaves, strict=True):
        if dims & {d for span in spans for d in span.dims()}:
            del flat[leaf]
    return pytree.unflatten(flat, like=params)


def _runs(flat: pytree.Flat, parts: list[Part]) -> dict[tuple[int, int], float]:
    """Cosines of the streams in front of and behind runs of blocks: by their first and length."""
    alike = np.mean([_alike(network, flat, inputs) for network, inputs in parts], axis=0)
    return {
        (first, length): float(alike[first - 1, first + length - 1])
        for first in range(1, len(alike))
        for length in range(1, len(alike) - first + 1)
    }


@functools.partial(jax.jit, static_argnames="network")
def _alike(network: Network, flat: Any, inputs: Any) -> Any:
    stream = [b.after for b in blocks_of(network)]
    values = execute(network, flat, inputs, frozenset(stream)).values
    x = jnp.stack([values[v] / jnp.linalg.norm(values[v], axis=-1)[..., None] for v in stream])
    return jnp.einsum("i...d,j...d->ij", x, x) / (x[0].size / x.shape[-1])


def _linear(flat: pytree.Flat, parts: list[Part], before: int, last: int) -> Array:
    """T by least squares, of what a block adds and streams in front of it and behind another."""
    found = [_sums(network, flat, inputs, before, last) for network, inputs in parts]
    gram, cross = (np.asarray(sum(map(np.float64, own))) for own in zip(*found, strict=True))
    size = len(gram)
    return solve(gram + RIDGE * np.trace(gram) / size * np.eye(size), cross)


@functools.partial(jax.jit, static_argnames=("network", "before", "last"))
def _sums(network: Network, flat: Any, inputs: Any, before: int, last: int) -> Any:
    blocks = blocks_of(network)
    at = blocks[before].branch, blocks[before].before, blocks[last].after
    values = execute(network, flat, inputs, frozenset(at)).values
    added, x, y = (values[v].reshape(-1, values[v].shape[-1]) for v in at)
    return [jnp.matmul(added.T, z, precision="highest") for z in (added, y - x)]


def _mapped(network: Network, flat: pytree.Flat, block: Block, linear: Array) -> tuple[Any, Any]:
    """The kernel that makes what a block adds, with a map behind it."""
    path = network.paths[network.kernels[block.branch].leaf]
    value = np.array(flat[path])
    index = matrix_index(network, frame_of(network, block.branch), value.shape)[0]
    new = value.astype(np.float64).reshape(-1)
    new[index] = new[index] @ linear
    return path, new.reshape(value.shape).astype(value.dtype)
