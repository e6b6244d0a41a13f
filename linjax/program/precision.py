"""How fine dtypes are, and what numbers lose in them."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np


def epsilon(dtype: Any) -> float:
    """The distance of one from the next larger number of a dtype."""
    return float(jnp.finfo(dtype).eps)


def coarsest(dtypes: Iterable[Any], default: Any = np.float32) -> Any:
    """The dtype of the largest distances, that by default where there are none.

    >>> coarsest([np.float32, jnp.bfloat16, np.float16]).__name__
    'bfloat16'
    """
    return max(dtypes, key=epsilon, default=default)


def lost(values: np.ndarray, dtype: Any) -> np.ndarray:
    """By how much numbers in float64 are off once they are in a dtype; infinite where too large.

    >>> lost(np.array([1.0, 0.1, 1e6]), np.float16).round(6).tolist()
    [0.0, 2.4e-05, inf]
    """
    with np.errstate(over="ignore"):
        return np.abs(values.astype(dtype).astype(np.float64) - values)
