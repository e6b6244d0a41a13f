"""Blocks of a residual network replaced by a linear map, which the block before them takes up."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.baselines.budget import Evidence, unfolded
from linjax.baselines.streams import Block, blocks_of
from linjax.dims.network import Network
from linjax.dims.reads import frame_of, matrix_index
from linjax.dims.run import execute
from linjax.errors import LinjaxError
from linjax.fold.engine.linalg import solve
from linjax.fold.rules import Size
from linjax.net import Net
from linjax.program import pytree

Array = np.ndarray

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
    runs = _runs(network, flat, blocks, list(batches))
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
    linear = _linear(network, flat, blocks[first - 1], blocks[first + count - 1], batches)
    path, value = _mapped(network, flat, blocks[first - 1], linear)
    flat[path] = jnp.asarray(value)
    dims = {problems.sites[n].dim for n in gone}
    for leaf, spans in zip(network.paths, network.layout.leaves, strict=True):
        if dims & {d for span in spans for d in span.dims()}:
            del flat[leaf]
    return pytree.unflatten(flat, like=params)


def _runs(
    network: Network, flat: pytree.Flat, blocks: list[Block], batches: list[Any]
) -> dict[tuple[int, int], float]:
    """Cosines of the streams in front of and behind runs of blocks: by their first and length."""

    @jax.jit
    def cosines(flat: Any, inputs: Any) -> Any:
        stream = [b.after for b in blocks]
        values = execute(network, flat, inputs, frozenset(stream)).values
        x = jnp.stack([values[v] / jnp.linalg.norm(values[v], axis=-1)[..., None] for v in stream])
        return jnp.einsum("i...d,j...d->ij", x, x) / (x[0].size / x.shape[-1])

    alike = np.mean([cosines(flat, jax.tree.leaves(b)) for b in batches], axis=0)
    return {
        (first, length): float(alike[first - 1, first + length - 1])
        for first in range(1, len(blocks))
        for length in range(1, len(blocks) - first + 1)
    }


def _linear(
    network: Network, flat: pytree.Flat, before: Block, last: Block, batches: Iterable[Any]
) -> Array:
    """T by least squares."""

    @jax.jit
    def sums(flat: Any, inputs: Any) -> Any:
        taps = frozenset({before.branch, before.before, last.after})
        values = execute(network, flat, inputs, taps).values
        added, x, y = (
            values[v].reshape(-1, values[v].shape[-1])
            for v in (before.branch, before.before, last.after)
        )
        return [jnp.matmul(added.T, z, precision="highest") for z in (added, y - x)]

    gram, cross = (
        np.sum([np.asarray(x, np.float64) for x in found], axis=0)
        for found in zip(*(sums(flat, jax.tree.leaves(b)) for b in batches), strict=True)
    )
    size = len(gram)
    return solve(gram + RIDGE * np.trace(gram) / size * np.eye(size), cross)


def _mapped(network: Network, flat: pytree.Flat, block: Block, linear: Array) -> tuple[Any, Any]:
    """The kernel that makes what a block adds, with a map behind it."""
    path = network.paths[network.kernels[block.branch].leaf]
    value = np.array(flat[path])
    index = matrix_index(network, frame_of(network, block.branch), value.shape)[0]
    new = value.astype(np.float64).reshape(-1)
    new[index] = new[index] @ linear
    return path, new.reshape(value.shape).astype(value.dtype)
