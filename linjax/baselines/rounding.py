"""Kernels rounded to a few bits: what quantisation does, alone or on top of a smaller network."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.program import pytree

Array = Any

SCALE = 4  # bytes of a scale


def rounded(params: Any, bits: int) -> Any:
    """Rounds every kernel to ``2^bits − 1`` levels, with a scale for each entry of its last axis.

    Round to nearest, symmetric, the largest weight being the last level. Leaves of one axis stay.

    Reference: Krishnamoorthi, Quantizing deep convolutional networks for efficient inference,
    2018, arXiv 1806.08342.
    """
    flat = pytree.flatten(params)
    kernels = _kernels(flat)
    changed = {path: _rounded(flat[path], bits) for path in kernels}
    return pytree.unflatten(flat | changed, like=params)


def stored_bytes(params: Any, bits: int | None = None) -> int:
    """Bytes of all leaves; of kernels where they are stored with so many bits, with scales."""
    flat = pytree.flatten(params)
    kernels = set() if bits is None else _kernels(flat)
    whole = sum(
        np.size(x) * jnp.result_type(x).itemsize for p, x in flat.items() if p not in kernels
    )
    return whole + sum(
        -(-np.size(flat[p]) * bits // 8) + SCALE * np.shape(flat[p])[-1] for p in kernels
    )


def _kernels(flat: pytree.Flat) -> set[Any]:
    return {
        p for p, x in flat.items() if np.ndim(x) > 1 and pytree.is_floating(str(jnp.result_type(x)))
    }


def _rounded(kernel: Array, bits: int) -> Array:
    levels = 2 ** (bits - 1) - 1
    value = jnp.asarray(kernel, jnp.float32)
    largest = jnp.max(jnp.abs(value), axis=tuple(range(value.ndim - 1)), keepdims=True)
    scale = jnp.where(largest > 0, largest / levels, 1.0)
    return (jnp.round(value / scale) * scale).astype(kernel.dtype)
