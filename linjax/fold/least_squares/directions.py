"""Which directions stay linear: linear units beside kept units, and bottlenecks."""

from typing import NamedTuple

import numpy as np
import scipy

Array = np.ndarray

JITTER = 1e-8
"""Relative to unit variances: what keeps a Cholesky factor of singular moments finite."""
LEAST = 1e-6
"""Share of a feature's variance that counts as left of it, beside units that explain it: what
rounding leaves must not be blown up to a linear unit."""


class Directions(NamedTuple):
    """Linear units ``u = v @ kernel``, orthonormal in covariance, the most useful first.

    Attributes:
      kernel: ``(p, r)``.
      explained: ``(r, q)`` covariance of the units with the target.
    """

    kernel: Array
    explained: Array


def solve(covariance: Array, cross: Array, jitter: float = JITTER) -> Array:
    """Returns ``covariance⁻¹ cross``, entries without variance left out.

    The variables are scaled to unit variance first, so that the jitter means the same for all.
    """
    if not len(covariance):
        return np.zeros_like(cross)
    scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    inverse = np.divide(
        1.0, scale, out=np.zeros_like(scale), where=scale > 1e-12 * scale.max(initial=0)
    )
    correlation = covariance * inverse[:, None] * inverse
    correlation[np.diag_indices_from(correlation)] = 1.0 + jitter
    weighted = cross * inverse[:, None]
    try:
        factor = scipy.linalg.cho_factor(correlation, check_finite=False)
        answer = scipy.linalg.cho_solve(factor, weighted, check_finite=False)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(correlation)
        safe = np.maximum(values, 1e-6)
        answer = vectors @ ((vectors.T @ weighted) / safe[:, None])
    return answer * inverse[:, None]


def floored(left: Array, whole: Array) -> Array:
    """Returns the covariance that others leave of features, with a floor relative to the whole."""
    return left + LEAST * np.diag(np.diag(whole))


def linear_directions(covariance: Array, cross: Array, limit: int | None = None) -> Directions:
    """Returns the directions of v that say most about a target: reduced-rank regression.

    With ``M = C⁻¹ R`` and V the eigenvectors of ``Mᵀ C M``, the kernel is ``M V`` scaled to
    unit variance; one eigen-decomposition serves every rank.

    Args:
      covariance: ``(p, p)`` covariance C of the features, given the units kept beside them.
      cross: ``(p, q)`` covariance R of the features with the target, likewise.
      limit: the largest number of directions.

    Returns:
      The directions; fewer than the limit where the target has a lower rank.

    Reference: Izenman, Reduced-rank regression for the multivariate linear model, 1975.
    """
    solution = solve(covariance, cross)
    fitted = cross.T @ solution
    values, vectors = scipy.linalg.eigh((fitted + fitted.T) / 2, check_finite=False)
    values, vectors = values[::-1][:limit], vectors[:, ::-1][:, :limit]
    rank = int(np.sum(values > 1e-9 * max(values.max(initial=0.0), np.finfo(float).tiny)))
    scale = np.sqrt(values[:rank])
    return Directions(solution @ (vectors[:, :rank] / scale), scale[:, None] * vectors[:, :rank].T)
