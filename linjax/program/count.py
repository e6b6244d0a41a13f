"""Counting parameters."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def count(params: Any) -> int:
    """Counts the parameters that inference needs.

    Every entry of every floating-point leaf of the pytree: kernels, biases, linear units,
    residual kernels, bottlenecks, scales. Nothing that a fold has removed is in the
    pytree, so nothing needs to be subtracted.

    Args:
      params: an original or folded pytree, of arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      The number of parameters.

    Example:
      >>> import jax.numpy as jnp, linjax
      >>> linjax.count({"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)})
      16
    """
    return sum(
        math.prod(jnp.shape(leaf))
        for leaf in jax.tree.leaves(params)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    )
