"""Weights of samples: what a row, or a position of a row, counts for; masks are weights of 0 and 1.

A sample of weight zero leaves no trace, whatever its values are.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.errors import EvidenceError

Array = Any

MOST = 2**31 - 1
"""Sum of whole weights of a batch up to which they are counted; larger ones are floats."""


def checked(weights: Any, rows: int, index: int) -> Array:
    """Returns the weights of a batch, int32 for masks and whole numbers, else (and huge) floats.

    Raises:
      EvidenceError: if they are of another number of rows, negative or not finite.
    """
    if np.asarray(weights).dtype.kind not in "biufV":  # V: bfloat16
        raise EvidenceError(f"batch {index}: weights of a {type(weights).__name__}, not of numbers")
    array = jnp.asarray(weights)
    if array.ndim == 0 or array.shape[0] != rows:
        raise EvidenceError(
            f"batch {index}: weights of shape {array.shape}, expected {rows} rows: one weight a "
            "row, or one for each position of each row"
        )
    values = np.asarray(weights).astype(np.float64)
    if not np.isfinite(values).all() or values.min(initial=0.0) < 0:
        raise EvidenceError(f"batch {index}: weights must be finite and at least 0")
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(jnp.promote_types(array.dtype, jnp.float32))
    if values.sum() > MOST:  # counts of 32 bits would begin anew
        return jnp.asarray(values, jnp.float32)
    return array.astype(jnp.int32)


def of_rows(weights: Array) -> Array:
    """Returns one weight a row, that of its heaviest position."""
    return jnp.max(weights.reshape(weights.shape[0], -1), axis=1)


def some(weights: Array | None, rows: int, count: int, seed: int) -> Array:
    """Draws some rows of a batch, of those that weigh anything as long as there are enough.

    Batches may be ordered, by class or by time: no part of them stands for the whole.

    Returns:
      ``(count,)`` where they are, ascending, those without weight last.
    """
    turn = np.random.default_rng(seed).random(rows)
    if weights is None:
        return np.sort(np.argsort(turn)[:count])
    idle = of_rows(weights) == 0
    chosen = jnp.argsort(jnp.where(idle, 2.0, jnp.asarray(turn, jnp.float32)), stable=True)[:count]
    return chosen[jnp.argsort(chosen + rows * idle[chosen])]


def of_outputs(weights: Array, leaf: Array) -> Array:
    """Returns the weights of an output's entries, to be multiplied with these.

    An output with the axes that weights have is weighed position by position, one with rows
    alone row by row.
    """
    like = weights if leaf.shape[: weights.ndim] == weights.shape else of_rows(weights)
    if leaf.ndim == 0 or leaf.shape[0] != weights.shape[0]:
        return jnp.ones((1,) * leaf.ndim, leaf.dtype)
    return like.reshape(*like.shape, *(1,) * (leaf.ndim - like.ndim)).astype(leaf.dtype)
