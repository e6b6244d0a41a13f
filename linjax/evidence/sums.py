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
      count: number of samples, int32.
      active: ``(k,)`` int32, samples with ``z > 0``.
      sums: ``(5, k)`` sums of z, h, z², h², z·h about the centres.
    """

    count: Array
    active: Array
    sums: Array


class ChainSums(NamedTuple):
    """Sums over samples for the stacked features ``a`` of one chain, by folds of the rows.

    Attributes:
      count: ``(F,)`` int32.
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


def unit_sums(z: Array, h: Array, centre_z: Array, centre_h: Array) -> UnitSums:
    """Sums one batch of a site: z and h are (samples, k)."""
    z, h = wide(z), wide(h)
    active = jnp.sum(z > 0, axis=0, dtype=jnp.int32)
    z, h = z - centre_z, h - centre_h
    return UnitSums(
        count=jnp.int32(z.shape[0]),
        active=active,
        sums=jnp.stack([jnp.sum(s, axis=0) for s in (z, h, z * z, h * h, z * h)]),
    )


def chain_sums(blocks: list[Array], centres: list[Array], rows: int, folds: int) -> ChainSums:
    """Sums one batch of a chain: blocks are (samples, d_l) with whole rows together."""
    centred = [wide(b) - c for b, c in zip(blocks, centres, strict=True)]
    parts = [_split(jnp.concatenate(centred, axis=1), rows, f, folds) for f in range(folds)]
    ends = [0]
    for block in blocks:
        ends.append(ends[-1] + block.shape[1])
    second = tuple(
        jnp.stack(
            [
                lax.dot_general(
                    a[:, start:end], a[:, :end], (((0,), (0,)), ((), ())),
                    precision=lax.Precision.HIGHEST,
                )
                for a in parts
            ]
        )
        for start, end in itertools.pairwise(ends)
    )  # fmt: skip
    return ChainSums(
        count=jnp.array([a.shape[0] for a in parts], jnp.int32),
        first=jnp.stack([jnp.sum(a, axis=0) for a in parts]),
        second=second,
    )


def _split(a: Array, rows: int, fold: int, folds: int) -> Array:
    """Takes every ``folds``-th row, with all its samples."""
    if a.shape[0] % rows:
        return a[fold::folds]
    return a.reshape(rows, -1, a.shape[1])[fold::folds].reshape(-1, a.shape[1])


def add(a: Any, b: Any) -> Any:
    """Adds two accumulators."""
    return jax.tree.map(jnp.add, a, b)
