"""How errors of an example's places add up: by themselves, or along with each other.

Metrics are of single places, as if errors of different ones were independent. Those of neighbouring
places of an image, or of positions of a sequence, aren't: what a fold doesn't tell of a feature
map it doesn't tell in a whole region, and the derivatives there point one way. With r what is left
of a coordinate at the places p of an example, and g its derivatives, errors cost

    κ = E (Σ_p g_p r_p)² / E Σ_p (g_p r_p)²

times what they would if they were independent. What is left are the lesser half of the coordinates'
principal axes: a fold keeps the others.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from linjax.dims.network import Network
from linjax.dims.sizes import Flat, read_sizes
from linjax.errors import EvidenceError
from linjax.evidence.effort import BYTES, costs
from linjax.evidence.moments import lower_gram, mirrored
from linjax.evidence.placement import fetch
from linjax.evidence.places import derivatives, places
from linjax.evidence.sensitivity import cotangents, differentiated

Array = Any

ROWS = 64
"""Rows that it is told from, at most."""
WIDEST = 512
"""Coordinates that are looked at, at most: the first ones."""
BOUNDS = 0.25, 16.0
"""What few rows may tell."""
SOLID = 1e-6
"""Axes along which coordinates vary less, relative to the greatest one, are rounding."""


def wanted(network: Network) -> int:
    """How many rows it is told from: what fits into memory, none where examples have one place."""
    own = costs(network)
    if all(samples <= 1 for samples, _ in own.widths):
        return 0
    return int(min(ROWS, BYTES / (4 * 4 * max(own.entries, 1))))


def coherences(
    network: Network, flat: Flat, inputs: list[Array], metric: str, mesh: Mesh | None = None
) -> dict[int, float]:
    """How many times as much errors cost as if those of an example's places were independent.

    Args:
      network: the traced network.
      flat: its parameters.
      inputs: the leaves of some rows.
      metric: output metric.
      mesh: devices that rows are spread over.

    Returns:
      By number of the place of evidence, where an example has several samples.
    """
    found = {}
    for n, (apart, gradient, rows) in _values(network, flat, inputs, metric).items():
        grams = mirrored(np.array(fetch(_gram(apart), mesh), np.float64))
        basis = np.stack([_lesser(x) for x in grams])
        sums = _sums(apart, gradient, rows, basis, inputs[0].shape[0])
        along, alone = map(float, fetch(sums, mesh))
        if alone > 0 and np.isfinite(along / alone):
            found[n] = float(np.clip(along / alone, *BOUNDS))
    return found


@functools.partial(jax.jit, static_argnames=("network", "metric"))
def _values(
    network: Network, flat: Flat, inputs: list[Array], metric: str
) -> dict[int, tuple[Array, Array, Array]]:
    """By place what coordinates vary by, derivatives, ``(n, samples, q)``, and samples' rows."""
    sizes, count, every = read_sizes(network, flat, inputs), inputs[0].shape[0], places(network)
    outputs, values, zeros, pull = differentiated(network, flat, inputs, every)
    gradients = pull(cotangents(outputs, jax.random.key(0), metric, 1))
    found, rows = {}, jnp.arange(1.0, count + 1)
    for n, place in enumerate(every):
        like = zeros[place.result]
        own = values[place.result].astype(like.dtype)[None]
        try:
            value, told = derivatives(network, place, own, like, sizes, rows)
        except EvidenceError:  # samples aren't told by rows
            continue
        if told is not None and value.shape[2] > count and value.size:
            gradient, _ = derivatives(network, place, gradients[place.result], like, sizes, None)
            value, gradient = (v[0, :, :, :WIDEST] for v in (value, gradient))
            apart = value - jnp.mean(value, axis=1, keepdims=True)
            found[n] = apart, gradient, told.astype(jnp.int32) - 1
    return found


def _lesser(gram: np.ndarray) -> np.ndarray:
    """``(q, q)`` the lesser half of the principal axes, zeros in place of the others."""
    values, vectors = np.linalg.eigh(gram)
    solid = np.flatnonzero(values > SOLID * max(values[-1], 0.0))
    lesser = solid[: -(-len(solid) // 2)]
    found = np.zeros(vectors.shape, np.float32)
    found[:, lesser] = vectors[:, lesser]
    return found


@functools.partial(jax.jit, static_argnames="count")
def _sums(apart: Array, gradient: Array, rows: Array, basis: Array, count: int) -> Any:
    """Squares of the errors of examples, and of places by themselves, summed."""
    costs = (apart @ basis) * (gradient @ basis)
    by_row = jax.vmap(lambda x: jax.ops.segment_sum(x, rows, count))(costs)
    return jnp.sum(by_row**2), jnp.sum(costs**2)


_gram = jax.jit(lower_gram)
"""One program in place of one for every operation."""
