"""How far parameters are from those that evidence was collected on, without keeping these."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.program import pytree
from linjax.program.pytree import join

Array = Any
SIGNS = 8
"""Sums with random signs that are kept of each leaf; they tell a distance to about a quarter."""
MOVED = 0.01
"""Relative distance that is told; a cast to bfloat16 moves by a fifth of that."""


def sketch(params: Any) -> Array:
    """A few sums of every leaf: ``(leaves, 1 + SIGNS)``, NaN where a leaf isn't held here.

    The first is the norm, the others have random signs, those of each leaf always the same:
    differences of the sums estimate the norm of a difference (Johnson and Lindenstrauss 1984).
    """
    return np.array([_sums(leaf) for _, leaf in sorted(pytree.flatten(params).items())])


def _sums(leaf: Any) -> list[float]:
    here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    if not here or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return [np.nan] * (1 + SIGNS)
    value = np.asarray(leaf).astype(np.float32).ravel()
    rng = np.random.default_rng(len(value))
    signs = (np.where(rng.integers(0, 2, len(value), np.int8), value, -value) for _ in range(SIGNS))
    return [float(np.linalg.norm(value)), *(float(np.sum(x, dtype=np.float64)) for x in signs)]


def moved(params: Any, then: Array) -> str:
    """Says how far parameters have moved from those of a sketch; empty if they haven't."""
    if not len(then):
        return ""
    paths, now = sorted(pytree.flatten(params)), sketch(params)
    apart = np.sqrt(np.mean((now[:, 1:] - then[:, 1:]) ** 2, axis=1))
    scale = np.maximum(then[:, 0], now[:, 0])
    share = np.nan_to_num(apart / np.where(scale > 0, scale, 1.0))
    worst = int(np.argmax(share))
    if share[worst] < MOVED:
        return ""
    return (
        f"parameters have moved since the evidence was collected, {join(paths[worst])} most, by "
        f"about {share[worst]:.2g} of its norm: predictions are of those before; collect again "
        "if it is more than you meant"
    )
