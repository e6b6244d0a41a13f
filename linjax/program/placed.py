"""Arrays of NumPy's as JAX's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def placed(array: Any) -> jax.Array:
    """Returns what ``jnp.asarray`` does, which compiles a program for each shape of NumPy's arrays.

    The numbers are copied, as they are there: whoever gave them may change theirs.

    >>> placed(np.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    """
    return jax.device_put(np.array(array)) if type(array) is np.ndarray else jnp.asarray(array)
