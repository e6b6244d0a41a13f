"""Which directions stay linear beside the units that are kept."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linjax.fold.engine.linalg import descending, forward, lower, solve, varying

Array = np.ndarray


class Left(NamedTuple):
    """What kept units leave at one point, of the linear sources and of the target.

    Attributes:
      covariance: ``(m, m)`` of the linear sources z.
      cross: ``(m, q)`` of z with the target.
    """

    covariance: Array
    cross: Array

    def along(self, basis: Array) -> "Left":
        """The same of combinations of the sources, ``(m, s)``."""
        return Left(basis.T @ self.covariance @ basis, basis.T @ self.cross)


class Directions(NamedTuple):
    """Linear units ``u = z @ kernel``, the most useful first.

    Attributes:
      kernel: ``(m, r)``; fewer columns than asked for where the target has a lower rank.
      readings: by point ``(m, r)`` and ``(r, q)``: the kernel with columns orthonormal in the
        covariance there, each a combination of the kernel's first ones, and the covariance
        of these with the target.
    """

    kernel: Array
    readings: tuple[tuple[Array, Array], ...]


def linear_directions(points: Sequence[Left], limit: int | None = None) -> Directions:
    """Returns the directions of z that say most about the targets: reduced-rank regression.

    With ``B = C⁻¹ R`` and V the eigenvectors of ``Bᵀ C B``, the kernel is ``B V`` scaled to
    unit variance; one eigen-decomposition serves every rank. Several points count as if their
    covariances were multiples ε of one, S: the columns ``√ε B`` stand side by side.

    Args:
      points: covariance C of z and R of z with the target, given the kept units.
      limit: the largest number of directions.

    Reference: Izenman, Reduced-rank regression for the multivariate linear model, 1975.
    """
    if len(points) > 1:
        return _shared(points, limit)
    covariance, cross = points[0]
    solution = solve(covariance, cross)
    values, vectors = descending(cross.T @ solution, limit)
    solid = _solid(values)
    scale = np.sqrt(values[solid])
    kernel = solution @ (vectors[:, solid] / scale)
    return Directions(kernel, ((kernel, scale[:, None] * vectors[:, solid].T),))


def varying_directions(points: Sequence[Left], spread: Array, limit: int) -> Directions:
    """Returns the directions that say most among those that sources vary in beside kept units.

    Where sources have fewer directions than there are of them, all that others would say is
    rounding.

    Args:
      points: as for :func:`linear_directions`, given the kept units.
      spread: ``(m, m)`` covariance of the sources, whatever is kept; summed over points.
      limit: the largest number of directions.
    """
    basis = varying(spread, np.sum([point.covariance for point in points], axis=0))
    if basis is None:
        return linear_directions(points, limit)
    found = linear_directions([point.along(basis) for point in points], limit)
    readings = tuple((basis @ kernel, explained) for kernel, explained in found.readings)
    return Directions(basis @ found.kernel, readings)


def _solid(values: Array) -> Array:
    return values > 1e-9 * max(values.max(initial=0.0), np.finfo(np.float64).tiny)


def _shared(points: Sequence[Left], limit: int | None) -> Directions:
    """The directions of several points at once."""
    mean = np.mean([point.covariance for point in points], axis=0)
    factor = lower(mean)
    columns = []
    for point in points:
        whitened = forward(factor, forward(factor, point.covariance).T)
        size = np.trace(whitened) / max(len(mean), 1)
        columns.append(np.sqrt(size) * solve(point.covariance, point.cross))
    solution = np.concatenate(columns, axis=1)
    across = factor.T @ solution
    if across.shape[1] <= len(mean):
        values, vectors = descending(across.T @ across, limit)
        solid = _solid(values)
        kernel = solution @ (vectors[:, solid] / np.sqrt(values[solid]))
    else:
        values, vectors = descending(across @ across.T, limit)
        solid = _solid(values)
        kernel = solution @ (across.T @ (vectors[:, solid] / values[solid]))
    return Directions(kernel, tuple(_orthonormal(point, kernel) for point in points))


def _orthonormal(point: Left, kernel: Array) -> tuple[Array, Array]:
    factor = lower(kernel.T @ point.covariance @ kernel)
    return forward(factor, kernel.T).T, forward(factor, kernel.T @ point.cross)
