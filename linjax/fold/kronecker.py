"""The curvature of kernels in Kronecker factors: what conjugate gradients are preconditioned by.

Of a kernel W of p rows and q columns the Gauss–Newton matrix H is close to ``L ⊗ R / tr L``, with
L and R its partial traces, ``(p, p)`` and ``(q, q)``. A derivative M of the outputs times random
signs that are others for every row has the covariance H; so ``L = E[M Mᵀ]`` and ``R = E[Mᵀ M]``
can be told from a few of these, whatever the leaf is and however it is used.

References:
  Martens & Grosse, Optimizing neural networks with Kronecker-factored approximate curvature, 2015,
  arXiv 1503.05671; Gupta, Koren & Singer, Shampoo, 2018, arXiv 1802.09568.
"""

import itertools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.evidence.sensitivity import cotangents

Array = Any
Shapes = tuple[tuple[int, ...], ...]

WIDEST = 1024
"""Rows or columns beyond which a factor's diagonal alone is kept."""
FLOOR = 0.05
"""Share of a factor's mean that is added to it: few samples don't see all directions."""
LEAST = 1e-3
"""Least mean curvature of a leaf, as a share of that of all."""


class Factors(NamedTuple):
    """The curvature of some leaves, in their order as one vector.

    Attributes:
      shapes: of the leaves.
      sides: of each leaf the eigenvalues of L and R, and their eigenvectors; None where a
        factor is diagonal.
      means: of each leaf the mean diagonal entry of H.
    """

    shapes: Shapes
    sides: tuple[tuple[tuple[Array, Array | None], ...], ...]
    means: tuple[float, ...]

    @property
    def diagonal(self) -> np.ndarray:
        """Each leaf's mean curvature, one entry a parameter."""
        least = LEAST * sum(self.means) / max(len(self.means), 1) + 1e-12
        pairs = zip(self.means, self.shapes, strict=True)
        return np.concatenate([np.full(math.prod(s), max(mean, least)) for mean, s in pairs])

    def solve(self, vector: np.ndarray, damping: np.ndarray) -> np.ndarray:
        """Solves ``(H + diag damping) x = vector``; the damping is one number for each leaf."""
        found, end = [], 0
        for shape, sides, mean in zip(self.shapes, self.sides, self.means, strict=True):
            start, end = end, end + math.prod(shape)
            (left, u), (right, v) = sides
            x = vector[start:end].reshape(len(left), len(right))
            x = x if u is None else u.T @ x
            x = x if v is None else x @ v
            x = x / (np.outer(left, right) / max(mean * x.size, 1e-30) + damping[start])
            x = x if u is None else u @ x
            x = x if v is None else x @ v.T
            found.append(x.ravel())
        return np.concatenate(found)


def factored(derivatives: Iterable[Array], rows: int, shapes: Shapes) -> Factors:
    """Tells the factors from derivatives of outputs times random signs, see :func:`signed`.

    Args:
      derivatives: of disjoint sets of rows, each a vector of all leaves.
      rows: how many rows these are together.
      shapes: of the leaves.
    """
    ends = [*itertools.accumulate(map(math.prod, shapes))]
    sums = [[_nothing(n) for n in _sides(shape)] for shape in shapes]
    for derivative in derivatives:
        leaves = np.split(np.asarray(derivative, np.float32), ends[:-1])
        for leaf, shape, own in zip(leaves, shapes, sums, strict=True):
            m = leaf.reshape(_sides(shape))
            for n, matrix in enumerate((m, m.T)):
                own[n] += np.sum(matrix**2, axis=1) if own[n].ndim == 1 else matrix @ matrix.T
    total = [float(np.sum(s[0]) if s[0].ndim == 1 else np.trace(s[0])) / rows for s in sums]
    means = tuple(t / max(math.prod(shape), 1) for t, shape in zip(total, shapes, strict=True))
    return Factors(shapes, tuple(tuple(_side(x / rows) for x in own) for own in sums), means)


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a leaf as a matrix: what a kernel makes is mostly its last axis."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def _nothing(size: int) -> np.ndarray:
    return np.zeros((size, size) if size <= WIDEST else size, np.float32)


def _side(own: np.ndarray) -> tuple[Array, Array | None]:
    values, vectors = (own, None) if own.ndim == 1 else np.linalg.eigh(own.astype(np.float64))
    floor = FLOOR * float(np.mean(values)) if len(values) else 0.0
    return (np.maximum(values, 0.0) + floor) / (1 + FLOOR), vectors


def signed(outputs: Any, key: Array, metric: str) -> Any:
    """Random cotangents, independent from row to row, whose covariance is the output metric."""
    seeds, tree = jax.tree.flatten(cotangents(outputs, key, metric))

    def mixed(seed: Array, own: Array) -> Array:
        if seed.dtype == jax.dtypes.float0:
            return seed[0]
        shape = (*seed.shape[:2], *(1,) * (seed.ndim - 2))
        return jnp.sum(seed * jax.random.rademacher(own, shape, seed.dtype), axis=0)

    keys = jax.random.split(jax.random.fold_in(key, 1), len(seeds))
    return jax.tree.unflatten(tree, [mixed(x, k) for x, k in zip(seeds, keys, strict=True)])
