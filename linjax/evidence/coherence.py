"""How errors of an example's places add up: by themselves, or along with each other.

Metrics are of single places, as if errors of different ones were independent. Those of neighbouring
places of an image, or of positions of a sequence, aren't: what a fold doesn't tell of a feature
map it doesn't tell in a whole region, and the derivatives there point one way. With r what is left
of a coordinate at the places p of an example, and g its derivatives, errors cost

    κ = E (Σ_p g_p r_p)² / E Σ_p (g_p r_p)²

times what they would if they were independent. What is left are the lesser half of the coordinates'
principal axes: a fold keeps the others. The axes are told from other rows than the errors: of few
rows their own means would be among the greater ones, so that nothing of what adds up were left.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from linjax.dims.network import Network
from linjax.dims.sizes import Flat, read_sizes
from linjax.errors import EvidenceError
from linjax.evidence.effort import BYTES, costs
from linjax.evidence.moments import Sums, merge_sums, mirrored, sums_of
from linjax.evidence.placement import fetch
from linjax.evidence.places import derivatives, places
from linjax.evidence.points import Samples
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
    """How many rows it is told from, none where all examples have one place."""
    return 0 if all(samples <= 1 for samples, _ in costs(network).widths) else ROWS


def together(network: Network, rows: int) -> int:
    """How many of these rows are run at once: half of them, or what fits into memory."""
    return max(min(rows // 2, int(BYTES / (16 * max(costs(network).entries, 1)))), 1)


def coherences(
    network: Network,
    flat: Flat,
    parts: Sequence[list[Array]],
    metric: str,
    mesh: Mesh | None = None,
) -> dict[int, float]:
    """How many times as much errors cost as if those of an example's places were independent.

    Args:
      network: the network for as many rows as a part has.
      flat: its parameters.
      parts: inputs of some rows, of as many others, and so on: every other one tells the axes for
        those between.
      metric: of the outputs.
      mesh: the devices on which these are.

    Returns:
      By number of the place of evidence, where an example has several samples.
    """

    def values() -> Iterator[dict[int, tuple[Array, Array, Array]]]:
        return (_values(network, flat, inputs, metric) for inputs in parts)

    kept = list(values()) if len(parts) <= 2 else None  # more don't fit into memory
    seen: tuple[dict[int, Sums], ...] = ({}, {})
    for k, every in enumerate(kept or values()):
        own = seen[k % 2]
        for n, (value, *_) in every.items():
            sums = Sums(*(np.array(x, np.float64) for x in fetch(_sums_of(value), mesh)))
            own[n] = merge_sums(own[n], sums) if n in own else sums
    axes = [{n: _axes(sums) for n, sums in own.items()} for own in seen]
    totals: dict[int, np.ndarray] = {}
    for k, every in enumerate(kept or values()):
        for n, sampled in every.items():
            pair = _costs(*sampled, *axes[1 - k % 2][n], parts[k][0].shape[0])
            totals[n] = totals.get(n, 0.0) + np.array(fetch(pair, mesh), np.float64)
    found = {}
    for n, (along, alone) in totals.items():
        if alone > 0 and np.isfinite(along / alone):
            found[n] = float(np.clip(along / alone, *BOUNDS))
    return found


@functools.partial(jax.jit, static_argnames=("network", "metric"))
def _values(
    network: Network, flat: Flat, inputs: list[Array], metric: str
) -> dict[int, tuple[Array, Array, Array]]:
    """By place coordinates, derivatives, ``(n, samples, q)``, and the rows of the samples."""
    sizes, count, every = read_sizes(network, flat, inputs), inputs[0].shape[0], places(network)
    outputs, values, zeros, pull = differentiated(network, flat, inputs, every)
    gradients = pull(cotangents(outputs, (0,), metric, 1))
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
            found[n] = value, gradient, told.astype(jnp.int32) - 1
    return found


def _axes(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """``(n, q)`` the mean, ``(n, q, q)`` lesser principal axes, zeros in place of the others."""
    lesser = [_lesser(gram, int(sums.count)) for gram in mirrored(sums.scatter)]
    return sums.mean.astype(np.float32), np.stack(lesser)


def _lesser(gram: np.ndarray, samples: int) -> np.ndarray:
    values, vectors = np.linalg.eigh(gram)
    solid = int(np.sum(values > SOLID * max(values[-1], 0.0)))
    start = len(values) - solid
    end = start + -(-solid // 2)
    if solid >= samples - 1:  # so few samples say nothing of the axes below
        start = 0
    found = np.zeros(vectors.shape, np.float32)
    found[:, start:end] = vectors[:, start:end]
    return found


@functools.partial(jax.jit, static_argnames="count")
def _costs(
    value: Array, gradient: Array, rows: Array, mean: Array, axes: Array, count: int
) -> tuple[Array, Array]:
    """Squares of the errors of examples, and of places by themselves, summed."""
    costs = ((value - mean[:, None]) @ axes) * (gradient @ axes)
    by_row = jax.vmap(lambda x: jax.ops.segment_sum(x, rows, count))(costs)
    return jnp.sum(by_row**2), jnp.sum(costs**2)


_sums_of = jax.jit(lambda value: sums_of(Samples(value, None)))
"""One program in place of one for every operation."""
