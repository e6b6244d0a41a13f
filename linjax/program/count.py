"""Counting parameters."""

import math
from typing import Any

import jax.numpy as jnp

from linjax.program import pytree


def count(params: Any) -> int:
    """Counts the parameters that inference needs.

    Every entry of every floating-point leaf of the pytree: kernels, biases, linear units,
    residual kernels, bottlenecks, scales. Nothing that a fold has removed is in the
    pytree, so nothing needs to be subtracted. Constants of the function that a fold has made
    smaller are in a folder of their own, and are no parameters, as they were none before.

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
    flat = pytree.flatten(params)
    pytree.check_arrays(flat)
    return sum(
        math.prod(jnp.shape(leaf))
        for path, leaf in flat.items()
        if path[0] != pytree.CONSTANTS and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    )
