"""What errors cost where the outputs have no derivative.

Behind a rounding or a comparison derivatives are zero, though the outputs depend on what is in
front of it. There a place is priced by what it costs to put its mean for it:
an error δ counts as ``q ‖δ‖²``, with q such that this one is told as it was measured.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from linjax.dims.network import Network
from linjax.dims.run import execute
from linjax.dims.sizes import Flat
from linjax.evidence.objective import curvature
from linjax.evidence.weights import of_outputs, of_rows

Array = Any


@functools.partial(jax.jit, static_argnames=("network", "place", "metric"))
def price(
    network: Network, flat: Flat, inputs: list[Array], place: int, metric: str,
    weights: Array | None,
) -> Array:  # fmt: skip
    """What the outputs lose for each unit of ``‖δ‖²`` where a value's mean stands for it.

    Args:
      network: the traced network.
      flat: its parameters.
      inputs: the leaves of some rows.
      place: number of the value.
      metric: output metric.
      weights: of these rows, or of their positions.
    """
    before = execute(network, flat, inputs, frozenset({place}))
    value = before.values[place].astype(jnp.float32)
    counts = jnp.ones(value.shape[:1], bool)
    if weights is not None and counts.shape == of_rows(weights).shape:
        counts = of_rows(weights) > 0
    counts = counts.reshape(-1, *(1,) * (value.ndim - 1))
    change = jnp.where(counts, jnp.mean(value, axis=0, where=counts, keepdims=True) - value, 0)
    outputs = execute(network, flat, inputs, probes={place: change}).outputs
    pairs = zip(jax.tree.leaves(before.outputs), jax.tree.leaves(outputs), strict=True)
    total = jnp.zeros(())
    for y, z in pairs:
        if not jnp.issubdtype(y.dtype, jnp.floating):
            continue
        y, apart = jnp.atleast_1d(y), jnp.atleast_1d(z - y).astype(jnp.float32)
        own = jnp.ones((), jnp.float32) if weights is None else of_outputs(weights, y)
        apart = jnp.where(own > 0, apart, 0) * jnp.sqrt(own)
        total += jnp.sum(apart * curvature([y], [apart], metric)[0])
    return total / jnp.maximum(jnp.sum(change**2), 1e-30)
