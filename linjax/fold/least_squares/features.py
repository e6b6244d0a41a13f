"""Features of a chain as linear maps of the traced network's activations.

All of a chain's features, folded or not, are linear maps ``v = a[rows] @ matrix`` of the
stacked activations ``a = [x, h_1, …, h_n]`` whose moments were gathered. Means and covariances
of anything that least squares needs are therefore products with blocks of one matrix.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linjax.evidence.moments import Moments
from linjax.graph.layers import Layer, Layers

Array = np.ndarray

STILL = 1e-13
"""Variance relative to the squared mean that is the rounding of a constant in single precision."""


class Features(NamedTuple):
    """A linear map of ``a``: ``v = a[rows] @ matrix``.

    Attributes:
      rows: ``(s,)`` the entries of ``a`` that matter.
      matrix: ``(s, p)``, None for the identity.
    """

    rows: Array
    matrix: Array | None = None

    @property
    def width(self) -> int:
        """Number of features p."""
        return len(self.rows) if self.matrix is None else self.matrix.shape[1]

    @property
    def dense(self) -> Array:
        """The matrix, the identity written out."""
        return np.eye(len(self.rows)) if self.matrix is None else self.matrix

    def __matmul__(self, kernel: Array) -> "Features":
        """Returns the features ``v @ kernel``."""
        return Features(self.rows, kernel if self.matrix is None else self.matrix @ kernel)

    def take(self, units: Array) -> "Features":
        """Returns the features with these indices."""
        if self.matrix is None:
            return Features(self.rows[units])
        return Features(self.rows, self.matrix[:, units])


def side_by_side(parts: list[Features]) -> Features:
    """Returns the features of all parts, one after another, over the union of their rows."""
    parts = [part for part in parts if part.width]
    if not parts:
        return Features(np.zeros(0, int))
    if len(parts) == 1:
        return parts[0]
    rows = np.unique(np.concatenate([part.rows for part in parts]))
    matrix = np.zeros((len(rows), sum(part.width for part in parts)))
    start = 0
    for part in parts:
        matrix[np.searchsorted(rows, part.rows), start : start + part.width] = part.dense
        start += part.width
    return Features(rows, matrix)


class Frame(NamedTuple):
    """First and second moments of ``a`` over some rows of the data.

    Attributes:
      samples: number of rows.
      mean: ``(D,)``.
      covariance: ``(D, D)``.
    """

    samples: float
    mean: Array
    covariance: Array

    def mean_of(self, v: Features) -> Array:
        """Returns E[v]."""
        mean = self.mean[v.rows]
        return mean if v.matrix is None else mean @ v.matrix

    def between(self, v: Features, w: Features) -> Array:
        """Returns Cov(v, w), ``(v.width, w.width)``."""
        block = self.covariance[np.ix_(v.rows, w.rows)]
        if w.matrix is not None:
            block = block @ w.matrix
        return block if v.matrix is None else v.matrix.T @ block

    def within(self, v: Features) -> Array:
        """Returns Cov(v, v), symmetric to the last bit."""
        block = self.between(v, v)
        return (block + block.T) / 2


def frame(moments: Moments, folds: list[int] | None = None, ridge: float = 0.0) -> Frame:
    """Returns the moments of the rows in some folds, shrunk towards independent entries.

    ``ridge`` is the weight of the diagonal that is added, relative to it. As the consumer's
    pre-activation is a known linear map of ``a``, shrinking the covariance once shrinks every
    refit made from it to the plain fold: with all of the weight on the diagonal the regression
    of ``h W`` on kept units returns the kept rows of ``W``.
    """
    chosen = list(range(len(moments.count)) if folds is None else folds)
    weights = moments.count[chosen] / max(np.sum(moments.count[chosen]), 1.0)
    mean = weights @ moments.mean[chosen]
    covariance = np.zeros_like(moments.scatter[0])
    for fold in chosen:
        covariance += moments.scatter[fold]
    covariance /= max(np.sum(moments.count[chosen]), 1.0)
    if len(chosen) > 1:
        apart = np.sqrt(weights)[:, None] * (moments.mean[chosen] - mean)
        covariance += apart.T @ apart
    still = np.diag(covariance) <= STILL * mean**2
    covariance[still], covariance[:, still] = 0.0, 0.0
    covariance[np.diag_indices_from(covariance)] *= 1.0 + ridge
    return Frame(float(np.sum(moments.count[chosen])), mean, covariance)


def block_rows(moments: Moments) -> list[Array]:
    """Returns the indices in ``a`` of the chain's input and of every site's units."""
    ends = np.cumsum((0, *moments.blocks))
    return [np.arange(a, b) for a, b in itertools.pairwise(ends)]


def entering(layer: Layer, v: Features) -> Features:
    """Returns what the layer's kernel reads: its features after the bottleneck."""
    return v if layer.down is None else v @ np.asarray(layer.down, np.float64)


def leaving(layer: Layer, v: Features, units: Array) -> Features:
    """Returns the next layer's features, given this layer's and its units' places in ``a``."""
    inner = entering(layer, v)
    parts = [Features(units)]
    if layer.linears:
        parts.append(inner @ np.asarray(layer.linear, np.float64))
    if layer.carry:
        parts.append(inner)
    return side_by_side(parts)


def onward(layers: Layers, index: int, roots: Sequence[Array]) -> Array:
    """Returns what the outputs see of the features that a layer reads.

    These are its weighted pre-activation and, where it has linear units or passes on what it
    reads, the parts of later pre-activations that come by this way.

    Args:
      layers: a chain.
      index: the layer.
      roots: by layer the square root of the output metric at its pre-activation.

    Returns:
      ``(p, ·)``: one column a direction.
    """
    way: Array | None = None
    columns = []
    for layer, root in itertools.islice(zip(layers, roots, strict=True), index, None):
        if layer.down is not None:
            way = layer.down if way is None else way @ layer.down
        columns.append((layer.kernels if way is None else way @ layer.kernels) @ root)
        if layer.linear is None and not layer.carry:
            break
        way = np.eye(layer.kernel.shape[0]) if way is None else way
        passed = [np.zeros((len(way), layer.units))]
        if layer.linear is not None:
            passed.append(way @ layer.linear)
        if layer.carry:
            passed.append(way)
        way = np.concatenate(passed, axis=1)
    return np.concatenate(columns, axis=1)


def along(layers: Layers, blocks: list[Array]) -> list[Features]:
    """Returns the features that each layer of the chain reads."""
    v = [Features(blocks[0])]
    for layer, units in zip(layers[:-1], blocks[1:], strict=True):
        v.append(leaving(layer, v[-1], units))
    return v
