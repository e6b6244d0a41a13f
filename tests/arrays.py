"""Arrays of JAX from numbers of NumPy's: ``jnp.asarray`` compiles a program for every shape."""

import jax
import numpy as np


def normal(seed, *shape):
    """Normal numbers of a third's deviation, on the device."""
    return placed(np.random.default_rng(seed).normal(size=shape) / 3)


def placed(values, dtype=np.float32):
    """Numbers in a dtype, on the device."""
    return jax.device_put(np.array(values, dtype))


def apart(y, z):
    """Relative error of outputs, as rules mean it."""
    y, z = np.asarray(y, np.float64), np.asarray(z, np.float64)
    return float(np.linalg.norm(z - y) / np.linalg.norm(y - y.mean(0)))
