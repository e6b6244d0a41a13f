"""Random signs, at no cost to whoever compiles them.

Estimates by random signs (Hutchinson 1990) want signs that are uncorrelated and that every device
and batch size agrees on, no more. JAX's generator gives that, too, but is a hundred operations
unrolled, which the host's compiler takes up to three seconds for wherever they stand. Here the
indices of an entry are hashed one after the other, in five operations each.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

Array = Any
Seed = tuple[Any, ...]
"""Whole numbers: one seed is as far from the next as from any other."""


def signs(seed: Seed, shape: tuple[int, ...], dtype: Any) -> Array:
    """Returns signs that depend on an entry's indices alone, not on how many others there are.

    >>> signs((7,), (2, 5), jnp.float32).tolist()
    [[1.0, -1.0, -1.0, -1.0, -1.0], [1.0, -1.0, 1.0, 1.0, 1.0]]
    >>> bool(jnp.all(signs((7,), (9, 8), jnp.int8)[:2, :5] == signs((7,), (2, 5), jnp.int8)))
    True
    """
    hashed = jnp.uint32(0)
    for number in seed:
        hashed = _mixed(hashed, jnp.asarray(number).astype(jnp.uint32))
    for size in shape:
        hashed = _mixed(hashed[..., None], lax.iota(jnp.uint32, size))
    return (1 - 2 * (hashed >> 31).astype(jnp.int32)).astype(dtype)


def _mixed(hashed: Array, number: Array) -> Array:
    """A hash that goes on with another number: multiplied and shifted until all bits matter."""
    x = hashed ^ (number * jnp.uint32(0x9E3779B9) + jnp.uint32(0x85EBCA6B))
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
