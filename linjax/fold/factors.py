"""Kernels in two factors, ``W ≈ W_down W``, in the layout of their leaf."""

from typing import Any

import numpy as np

from linjax.dims.network import Network
from linjax.dims.reads import Frame, frame_of, matrix_index

Array = np.ndarray


def shapes(
    network: Network, leaf: int, shape: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the two factors of a kernel; one axis of what is made, or read, has its rank."""
    made = network.bias_axes(leaf)
    read = [n for n in range(len(shape)) if n not in made]
    own = network.layout.values[network.ref(leaf)].read
    at = next(n for n in read if own & set(network.layout.leaves[leaf][n].dims()))
    first = tuple(rank if n == made[0] else 1 if n in made else shape[n] for n in range(len(shape)))
    second = tuple(rank if n == at else shape[n] if n in made else 1 for n in range(len(shape)))
    return first, second


def placed(
    network: Network, own: Frame, shape: tuple[int, ...], matrix: Array, dtype: Any
) -> Array:
    """A factor's matrix as a leaf."""
    leaf = np.zeros(int(np.prod(shape)), dtype)
    leaf[matrix_index(network, own, shape)[0].reshape(-1)] = matrix.reshape(-1)
    return leaf.reshape(shape)


def effective(network: Network, flat: dict[Any, Array], op: int, kind: str = "") -> Array:
    """A product's kernel, or what makes linear coordinates beside it, as one of two factors."""
    leaf = network.kernels[op].leaf
    up = flat[network.extra(leaf, kind) if kind else network.paths[leaf]]
    down = flat.get(network.extra(leaf, "down"))
    if down is None:
        return up
    own = frame_of(network, op)
    made = network.bias_axes(leaf)
    shape = tuple(up.shape[n] if n in made else down.shape[n] for n in range(up.ndim))
    first, second = (
        x.reshape(-1)[matrix_index(network, own, x.shape)[0]].astype(np.float64) for x in (down, up)
    )
    return placed(network, own, shape, first @ second, np.float64)
