"""Which directions stay linear: linear units beside kept units, and bottlenecks."""

from typing import NamedTuple

import numpy as np
import scipy

from linjax.fold.engine.linalg import solve

Array = np.ndarray


class Directions(NamedTuple):
    """Linear units ``u = v @ kernel``, orthonormal in covariance, the most useful first.

    Attributes:
      kernel: ``(p, r)``.
      explained: ``(r, q)`` covariance of the units with the target.
    """

    kernel: Array
    explained: Array


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
