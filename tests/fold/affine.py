"""Affine maps to build networks of, for tests of folding."""

import numpy as np

from tests.arrays import placed


def layer(rng, p, q, dtype, bias=True, gain=1.0):
    """Random parameters of a map from p to q features, the kernel's variance gain / p."""
    part = {"w": placed(rng.normal(size=(p, q)) * np.sqrt(gain / p), dtype)}
    return {**part, "b": placed(0.3 * rng.normal(size=q), dtype)} if bias else part


def dense(part, v):
    """Applies a map of :func:`layer`."""
    z = v @ part["w"]
    return z + part["b"] if "b" in part else z


def distance(a, b):
    """The largest difference of two arrays, relative to the second's largest entry."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max())
