"""The Gauss–Newton matrix as a Kronecker product a leaf, from a few random derivatives.

Output directions drawn with covariance F, the output metric, have vector–Jacobian products of
covariance ``A = Jᵀ F J``, the Gauss–Newton matrix. A leaf's part of such a vector, seen as a
matrix S, has ``A ≈ L ⊗ R / tr L`` with ``L = E[S Sᵀ]`` and ``R = E[Sᵀ S]``: what the layer reads
times what errors of its result cost, whatever the leaf is for and however often it is used. In the
eigenvectors of L and R one divides by ``A + λ I`` at once, and conjugate gradients that begin
so need a third of the steps.

References:
  Martens & Grosse, Optimizing neural networks with Kronecker-factored approximate curvature, 2015,
  arXiv 1503.05671; Ren & Goldfarb, Tensor normal training, 2021, arXiv 2106.02925.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = Any
Shape = tuple[int, ...]

LARGEST = 2048
"""The longest side whose eigenvectors are worth finding."""
FLOOR = 0.05
"""Share of a side's mean that is added to it: few samples don't see all directions."""
LEAST = 1e-3
"""A leaf's least mean curvature, as a share of the mean over leaves."""


class Factored(NamedTuple):
    """The curvature of a leaf as a matrix of ``(m, n)`` entries.

    Attributes:
      rows: ``(m, m)`` eigenvectors of L; None for the identity.
      columns: ``(n, n)`` of R, likewise.
      values: ``(m, n)`` eigenvalues of the product.
      mean: the mean curvature of an entry.
    """

    rows: np.ndarray | None
    columns: np.ndarray | None
    values: np.ndarray
    mean: float

    def divide(self, vector: np.ndarray, damping: float) -> np.ndarray:
        """``(A + damping I)⁻¹`` times a vector of the leaf's entries."""
        turned = _turned(vector.reshape(self.values.shape), self.rows, self.columns)
        turned = turned / (self.values + damping)
        back = [None if side is None else side.T for side in (self.rows, self.columns)]
        return _turned(turned, *back).ravel()


def _turned(matrix: np.ndarray, rows: np.ndarray | None, columns: np.ndarray | None) -> np.ndarray:
    """``rowsᵀ matrix columns``."""
    matrix = matrix if rows is None else rows.T @ matrix
    return matrix if columns is None else matrix @ columns


class Curvatures(NamedTuple):
    """The curvature of all leaves, one after the other.

    Attributes:
      leaves: of every leaf.
      ends: where each of them ends in the vector of all.
    """

    leaves: tuple[Factored, ...]
    ends: Sequence[int]

    @property
    def sizes(self) -> np.ndarray:
        """How many entries every leaf has."""
        return np.diff([0, *self.ends])

    def means(self) -> np.ndarray:
        """Mean curvature of each leaf; none of them is next to nothing."""
        means = np.array([leaf.mean for leaf in self.leaves])
        floor = LEAST * (means @ self.sizes) / max(self.sizes.sum(), 1) + 1e-12
        return np.maximum(means, floor)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A value a leaf, for each of its entries."""
        return np.repeat(values, self.sizes)

    def divide(self, vector: np.ndarray, damping: np.ndarray) -> np.ndarray:
        """``(A + D)⁻¹`` times a vector, D being a multiple of the identity for every leaf."""
        each = zip(self.leaves, np.split(vector, self.ends[:-1]), damping, strict=True)
        return np.concatenate([leaf.divide(part, float(own)) for leaf, part, own in each])


def as_matrix(shape: Shape) -> tuple[int, int]:
    """A leaf's shape, cut in two where both sides together are shortest.

    That is between what is read and what is made for most kernels: ``(in, out)``, ``(in, heads,
    features)``, ``(height, width, in, out)``.
    """
    cuts = [(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, len(shape))]
    return min(cuts, key=sum, default=(math.prod(shape), 1))


def curvatures(samples: Iterable[np.ndarray], total: int, shapes: Sequence[Shape]) -> Curvatures:
    """Tells the curvature of all leaves from random derivatives.

    Args:
      samples: of sets of rows, the sum over a set of ``Jᵀ d``, with d of covariance F, as a vector
        of all entries.
      total: rows of all sets; curvatures are means over rows.
      shapes: of the leaves.
    """
    ends = list(itertools.accumulate(map(math.prod, shapes)))
    sides = [as_matrix(shape) for shape in shapes]
    moments = [_Moments.nothing(side) for side in sides]
    for sample in samples:
        leaves = np.split(np.asarray(sample, np.float32) / np.float32(total**0.5), ends[:-1])
        each = zip(moments, leaves, sides, strict=True)
        moments = [m.plus(leaf.reshape(side)) for m, leaf, side in each]
    return Curvatures(tuple(m.factored() for m in moments), ends)


class _Moments(NamedTuple):
    """Sums over samples S of a leaf.

    Attributes:
      rows: of ``S Sᵀ``; None where the side is too long, or is the only one.
      columns: of ``Sᵀ S``.
      squares: of the squares of S.
    """

    rows: np.ndarray | None
    columns: np.ndarray | None
    squares: np.ndarray

    @classmethod
    def nothing(cls, side: tuple[int, int]) -> "_Moments":
        known = [1 < n <= LARGEST and min(side) > 1 for n in side]
        rows, columns = (
            np.zeros((n, n)) if yes else None for n, yes in zip(side, known, strict=True)
        )
        return cls(rows, columns, np.zeros(side))

    def plus(self, sample: np.ndarray) -> "_Moments":
        rows = None if self.rows is None else self.rows + sample @ sample.T
        columns = None if self.columns is None else self.columns + sample.T @ sample
        return _Moments(rows, columns, self.squares + sample**2)

    def factored(self) -> Factored:
        mean = float(self.squares.sum() / max(self.squares.size, 1))
        if (
            self.rows is None and self.columns is None
        ):  # a bias: few samples tell single entries badly
            return Factored(None, None, (self.squares + mean) / 2, mean)
        m, n = self.squares.shape
        left, rows = _eigen(self.rows, self.squares.sum() / m, m)
        right, columns = _eigen(self.columns, self.squares.sum() / n, n)
        return Factored(rows, columns, np.outer(left, right) / max(left.sum(), 1e-30), mean)


def _eigen(matrix: np.ndarray | None, mean: float, size: int) -> tuple[np.ndarray, Any]:
    if matrix is None:
        return np.full(size, mean), None
    values, vectors = np.linalg.eigh(matrix)
    return (np.maximum(values, 0) + FLOOR * mean) / (1 + FLOOR), vectors
