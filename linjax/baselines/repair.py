"""Batch norm's running statistics, taken anew on what a smaller network computes."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from linjax.dims.norms import batch_norms
from linjax.dims.run import execute
from linjax.net import Net
from linjax.program import pytree

Array = Any


def recalibrated(net: Net, params: Any, batches: Iterable[Any]) -> Any:
    """Returns parameters whose batch norms have the statistics of what they see now.

    One norm after another, in the order of execution: each sees what those before it make with
    their new statistics. Networks without batch norm stay as they are.

    Args:
      net: the traced network.
      params: its parameters, folded by any method.
      batches: inputs, read once for each norm: a list.

    References: Jordan et al., REPAIR, 2022, arXiv 2211.08403; Wang et al., ICLR 2025, arXiv
    2502.10216, after folding by k-means.
    """
    network, flat = net.network, net.network.flatten(params)
    norms = batch_norms(network)

    @jax.jit
    def sums(flat: Any, inputs: Any) -> list[tuple[Array, Array, Array]]:
        values = execute(network, flat, inputs, frozenset(n.value for n in norms)).values
        found = []
        for norm in norms:
            x = jnp.moveaxis(values[norm.value], norm.axis, -1)
            x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
            mean = x.mean(0)
            found.append((jnp.asarray(len(x), jnp.float32), mean, jnp.sum((x - mean) ** 2, 0)))
        return found

    for n, norm in enumerate(norms):
        count, mean, scatter = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
        for batch in batches:
            more, other, own = sums(flat, jax.tree.leaves(batch))[n]
            total, apart = count + more, other - mean
            mean = mean + apart * more / total
            scatter = scatter + own + apart**2 * count * more / total
            count = total
        for leaf, value in ((norm.mean, mean), (norm.var, scatter / count)):
            path = network.paths[leaf]
            if path in flat and jnp.size(flat[path]):
                old = jnp.asarray(flat[path])  # linear coordinates beside have no norm
                flat[path] = value[: old.size].reshape(old.shape).astype(old.dtype)
    return pytree.unflatten(flat, like=params)
