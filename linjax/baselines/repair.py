"""Batch norm's running statistics, taken anew on what a smaller network computes."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from linjax.dims.norms import batch_norms
from linjax.dims.replay import Replay, wiring
from linjax.fold.rows import load, replayable
from linjax.net import Net
from linjax.program import pytree

Array = Any


def recalibrated(net: Net, params: Any, batches: Iterable[Any]) -> Any:
    """Returns parameters whose batch norms have the statistics of what they see now.

    One norm after another, in the order of execution: each sees what those before it make with
    their new statistics. What stands before a norm is computed once, on as many of the rows as
    memory allows. Networks without batch norm stay as they are.

    Args:
      net: the traced network.
      params: its parameters, folded by any method.
      batches: inputs.

    References: Jordan et al., REPAIR, 2022, arXiv 2211.08403; Wang et al., ICLR 2025, arXiv
    2502.10216, after folding by k-means.
    """
    flat = net.network.flatten(params)
    rows = replayable(net, load(net, batches))
    network = net.network_for(flat, rows)
    replay, links = Replay(network, flat, jax.tree.leaves(rows)), wiring(network)
    for norm in batch_norms(network):
        x = jnp.moveaxis(replay.value(norm.value), norm.axis, -1)
        x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        for leaf, value in ((norm.mean, jnp.mean(x, 0)), (norm.var, jnp.var(x, 0))):
            path = network.paths[leaf]
            if path in flat and jnp.size(flat[path]):
                old = jnp.asarray(flat[path])  # linear coordinates beside have no norm
                flat[path] = value[: old.size].reshape(old.shape).astype(old.dtype)
        replay.change(flat)
        replay.leave(links.at[norm.value])
    return pytree.unflatten(flat, like=params)
