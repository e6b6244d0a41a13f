"""Scores the units of many networks at once, and switches units off by masks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.evidence.points import before
from linjax.program import pytree

Array = Any
Params = Any
CHUNK = 4096  # rows at once


@functools.partial(jax.jit, static_argnames="net")
@functools.partial(jax.vmap, in_axes=(None, 0, 0))
def active(net: linjax.Net, params: Params, x: Array) -> tuple[Array, ...]:
    """Counts the rows for which each unit is on.

    Args:
      net: the network, traced.
      params: parameters, with an axis for the networks.
      x: ``(networks, rows, features)``.

    Returns:
      By site ``(networks, units)`` int32.
    """
    counts = tuple(jnp.zeros(site.width, jnp.int32) for site in net.graph.sites)
    for start in range(0, len(x), CHUNK):
        rows = x[start : start + CHUNK]
        network = net.network_for(pytree.flatten(params), (rows,))
        pre = [before(network, network.site(site.name)) for site in net.graph.sites]
        found = net.run(params, rows, taps=frozenset(pre)).values
        counts = tuple(
            count + jnp.sum(found[z] > 0, axis=0, dtype=jnp.int32)
            for count, z in zip(counts, pre, strict=True)
        )
    return counts


def masks(net: linjax.Net, params: Params, kept: tuple[np.ndarray, ...]) -> Params | None:
    """Ones and zeros in the shapes of the parameters: zeros where a unit is gone.

    None if all units are there.
    """
    if all(k.all() for k in kept):
        return None
    ones = {path: np.ones(np.shape(leaf), np.float32) for path, leaf in
            pytree.flatten(params).items()}  # fmt: skip
    for site, keep in zip(net.graph.sites, kept, strict=True):
        producer = net.graph.affine(site.producer)
        runs = np.tile(keep, (1, producer.part.of))
        _scale(ones, producer.kernel, runs, 1 + producer.layout[1])
        if producer.bias is not None:
            _scale(ones, producer.bias, runs, 1)
        for name in site.consumers:
            reader = net.graph.affine(name)
            _scale(ones, reader.kernel, keep, 1 + reader.layout[0])
    return jax.tree.unflatten(jax.tree.structure(params), list(ones.values()))


def _scale(ones: dict[Any, np.ndarray], path: Any, keep: np.ndarray, axis: int) -> None:
    shape = [1] * ones[path].ndim
    shape[0], shape[axis] = keep.shape
    ones[path] = ones[path] * keep.reshape(shape)


def masked(tree: Params, mask: Params | None) -> Params:
    """Multiplies by masks."""
    return tree if mask is None else jax.tree.map(jnp.multiply, tree, mask)
