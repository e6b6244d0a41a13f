"""Counting parameters."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from linjax.program import pytree


def count(params: Any) -> int:
    """Counts the parameters that inference needs.

    Every entry of every floating-point leaf of the pytree: kernels, biases, linear units,
    residual kernels, bottlenecks, scales. Nothing that a fold has removed is in the
    pytree, so nothing needs to be subtracted.

    Args:
      params: an original or folded pytree, of arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      The number of parameters.

    Raises:
      StructureError: if a leaf is no array, naming it.

    Example:
      >>> import jax.numpy as jnp, linjax
      >>> linjax.count({"kernel": jnp.zeros((3, 4)), "bias": jnp.zeros(4)})
      16
    """
    pytree.check_arrays(pytree.flatten(params))
    return sum(
        math.prod(jnp.shape(leaf))
        for leaf in jax.tree.leaves(params)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    )
