"""Bases of straight coordinates, and the order in which aligned ones go."""

from collections.abc import Sequence

import numpy as np

from linjax.fold.engine.linalg import ROUNDING, axes, descending, root
from linjax.fold.engine.sight import Sight

Array = np.ndarray


def straight_basis(seen: Sequence[Sight]) -> Array:
    """Returns the directions of h that say most about its readers, the most useful first.

    For one point these are its principal axes in the metric. Several points count as if their
    covariances were multiples ε of their sum S: the leading left singular vectors of
    ``S^{-1/2} C Q^{1/2} / √ε``, side by side, times ``S^{-1/2}``.

    Args:
      seen: a repeat as each point sees it.

    Returns:
      ``(m, s)``; s is less than m where fewer directions say anything.
    """
    return leading([sight.units for sight in seen], [sight.metric for sight in seen])


def leading(units: Sequence[Array], metrics: Sequence[Array]) -> Array:
    """The same of covariances and metrics, by point."""
    if len(units) == 1:
        return axes(root(units[0]).root, metrics[0]).basis
    inverse = root(np.sum(units, axis=0)).inverse
    gain = np.zeros((inverse.shape[1],) * 2)
    for covariance, metric in zip(units, metrics, strict=True):
        whitened = inverse.T @ covariance
        size = np.sum(whitened * inverse.T) / max(len(gain), 1)
        if size > ROUNDING:
            gain += whitened @ metric @ whitened.T / size
    values, vectors = descending(gain)
    solid = values > ROUNDING * max(values.max(initial=0.0), np.finfo(np.float64).tiny)
    return inverse @ vectors[:, solid]


def elimination(loss: Array) -> Array:
    """Orders coordinates by how little is lost by dropping each after those before it.

    Dropping D loses ``Σ_{i,j ∈ D} loss_ij``, with ``loss = Q ∘ E[hᵀ h]``.

    >>> elimination(np.diag([2.0, 1.0, 3.0])).tolist()
    [1, 0, 2]
    """
    m = len(loss)
    added = np.diag(loss).astype(np.float64)
    order = np.zeros(m, int)
    for j in range(m):
        i = int(np.argmin(added))
        order[j] = i
        added += 2.0 * loss[:, i]
        added[i] = np.inf
    return order
