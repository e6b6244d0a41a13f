"""The accumulators of one pass, on the device: sums about a fixed centre.

Centred sums of a batch are exact to float32 rounding when the centre is near the mean;
the first batch's own mean is used as centre for the whole pass, so that sums of later
batches simply add. Every few batches they move to float64 on the host.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = Any


class UnitSums(NamedTuple):
    """Sums over samples for one site's units.

    Attributes:
      count: number of samples, int32; floating with weights that are.
      active: ``(k,)``, likewise, samples with ``z > 0``.
      sums: ``(5, k)`` sums of z, h, z², h², z·h about the centres.
    """

    count: Array
    active: Array
    sums: Array


class ChainSums(NamedTuple):
    """Sums over samples for the stacked features ``a`` of one chain, by folds of the rows.

    Attributes:
      count: ``(F,)`` int32; floating with weights that are.
      first: ``(F, D)`` sums of ``a`` about the centre.
      second: block rows of the lower triangle of ``Σ a aᵀ`` about the centre: for block l
        ``(F, d_l, d_0 + … + d_l)``.
    """

    count: Array
    first: Array
    second: tuple[Array, ...]


def wide(x: Array) -> Array:
    """Casts to the accumulators' dtype: float32, or float64 where the values are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def gram(g: Array) -> Array:
    """Returns ``Σ g gᵀ`` of (samples, k), in the accumulators' dtype."""
    g = wide(g)
    return jnp.matmul(g.T, g, precision=lax.Precision.HIGHEST)


def moments(rows: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Returns the sum of weights, the mean and the centred scatter of (samples, k)."""
    count = jnp.sum(weight)
    mean = weight @ rows / count
    return count, mean, gram((rows - mean) * jnp.sqrt(weight)[:, None])


def centre(x: Array, weights: Array | None = None) -> Array:
    """Returns the mean of (samples, k)."""
    x = wide(x)
    if weights is None:
        return jnp.mean(x, axis=0)
    weights = weights.astype(x.dtype)
    return _total(weights, x) / jnp.maximum(jnp.sum(weights), jnp.finfo(x.dtype).tiny)


def _total(weights: Array, x: Array) -> Array:
    """``Σ w x`` over samples; what weighs nothing may be anything."""
    weights = weights.astype(x.dtype)[:, None]
    return jnp.sum(jnp.where(weights > 0, x, 0) * weights, axis=0)


def unit_sums(
    z: Array, h: Array, centre_z: Array, centre_h: Array, weights: Array | None = None
) -> UnitSums:
    """Sums one batch of a site: z and h are (samples, k), weights (samples,)."""
    z, h = wide(z), wide(h)
    if weights is not None:
        own = jnp.int32 if jnp.issubdtype(weights.dtype, jnp.integer) else weights.dtype
        active = jnp.sum(jnp.where(z > 0, weights[:, None], 0), axis=0, dtype=own)
        z, h = z - centre_z, h - centre_h
        return UnitSums(
            count=jnp.sum(weights, dtype=own),
            active=active,
            sums=jnp.stack([_total(weights, s) for s in (z, h, z * z, h * h, z * h)]),
        )
    active = jnp.sum(z > 0, axis=0, dtype=jnp.int32)
    z, h = z - centre_z, h - centre_h
    return UnitSums(
        count=jnp.int32(z.shape[0]),
        active=active,
        sums=jnp.stack([jnp.sum(s, axis=0) for s in (z, h, z * z, h * h, z * h)]),
    )


def chain_sums(
    blocks: list[Array], centres: list[Array], rows: int, folds: int, weights: Array | None = None
) -> ChainSums:
    """Sums one batch of a chain: blocks are (samples, d_l) with whole rows together."""
    centred = [wide(b) - c for b, c in zip(blocks, centres, strict=True)]
    if weights is not None:
        return _weighted_sums(centred, rows, folds, weights)
    parts = [_split(jnp.concatenate(centred, axis=1), rows, f, folds) for f in range(folds)]
    return ChainSums(
        count=jnp.array([a.shape[0] for a in parts], jnp.int32),
        first=jnp.stack([jnp.sum(a, axis=0) for a in parts]),
        second=_products([(a, a) for a in parts], centred),
    )


def _weighted_sums(centred: list[Array], rows: int, folds: int, weights: Array) -> ChainSums:
    """As :func:`chain_sums`; rows without any weight don't count when rows are dealt to folds."""
    a = jnp.concatenate(centred, axis=1)
    a = jnp.where(weights[:, None] > 0, a, 0)
    whole = rows if a.shape[0] % rows == 0 else a.shape[0]
    counts = jnp.any(weights.reshape(whole, -1) > 0, axis=1)
    fold = jnp.repeat((jnp.cumsum(counts) - 1) % folds, a.shape[0] // whole)
    own = jnp.int32 if jnp.issubdtype(weights.dtype, jnp.integer) else weights.dtype
    parts = [jnp.where(fold == f, weights, 0) for f in range(folds)]
    scaled = [a * w.astype(a.dtype)[:, None] for w in parts]
    return ChainSums(
        count=jnp.stack([jnp.sum(w, dtype=own) for w in parts]),
        first=jnp.stack([jnp.sum(aw, axis=0) for aw in scaled]),
        second=_products([(aw, a) for aw in scaled], centred),
    )


def _products(pairs: list[tuple[Array, Array]], blocks: list[Array]) -> tuple[Array, ...]:
    """Each block's products with the blocks up to it, summed over samples, a pair a fold."""
    ends = [0, *itertools.accumulate(block.shape[1] for block in blocks)]
    return tuple(
        jnp.stack(
            [
                lax.dot_general(
                    a[:, start:end], b[:, :end], (((0,), (0,)), ((), ())),
                    precision=lax.Precision.HIGHEST,
                )
                for a, b in pairs
            ]
        )
        for start, end in itertools.pairwise(ends)
    )  # fmt: skip


def _split(a: Array, rows: int, fold: int, folds: int) -> Array:
    """Takes every ``folds``-th row, with all its samples."""
    if a.shape[0] % rows:
        return a[fold::folds]
    return a.reshape(rows, -1, a.shape[1])[fold::folds].reshape(-1, a.shape[1])


def add(a: Any, b: Any) -> Any:
    """Adds two accumulators."""
    return jax.tree.map(jnp.add, a, b)
