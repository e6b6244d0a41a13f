"""Linear algebra on second moments that may be singular."""

from typing import NamedTuple

import numpy as np
import scipy

Array = np.ndarray

JITTER = 1e-8
"""Relative to unit variances: what keeps a Cholesky factor of singular moments finite."""
SINGLE = 1e-7
"""What correlations in single precision err by: regressions lean on no direction that has less."""
LEAST = 1e-6
"""Share of a feature's variance that counts as left of it, beside units that explain it: what
rounding leaves must not be blown up to a linear unit."""
ROUNDING = 1e-12
"""Share of the largest variance that may be rounding."""
POWERS = 5
"""Products with a matrix by which its largest eigenvalue is told."""
METRIC_FLOOR = 0.02
"""Share of its mean that every direction of a result is worth at least."""


def inverse_scale(covariance: Array) -> Array:
    """Returns one over the standard deviations, 0 where there is none."""
    scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    solid = scale > 1e-12 * scale.max(initial=0.0)
    return np.divide(1.0, scale, out=np.zeros_like(scale), where=solid)


def solve(covariance: Array, cross: Array, jitter: float = SINGLE) -> Array:
    """Returns ``covariance⁻¹ cross``, entries without variance left out.

    The variables are scaled to unit variance first, so that the jitter means the same for all.
    """
    if not len(covariance):
        return np.zeros_like(cross)
    inverse = inverse_scale(covariance)
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


def varying(whole: Array, left: Array) -> Array | None:
    """Returns the directions ``(m, s)`` in which variables vary, beside others that explain them.

    In others they are what rounding left, of either sign: all that they would say is that.

    Args:
      whole: covariance of the variables.
      left: what others leave of it, from :func:`floored` if there are any.

    Returns:
      None where they vary in all directions, which is told much sooner than in which they do.
    """
    inverse = inverse_scale(whole)
    least = LEAST * (1.0 + _largest(symmetric(whole * inverse[:, None] * inverse)))
    beside = symmetric(left * inverse[:, None] * inverse)
    try:
        np.linalg.cholesky(beside - least * np.eye(len(beside)))
        return None
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(beside)
    return np.asarray(inverse[:, None] * vectors[:, values > least])


def _largest(matrix: Array) -> float:
    """The largest eigenvalue of a positive matrix, nearly: by powers, from its largest column."""
    if not len(matrix):
        return 0.0
    vector = matrix[:, np.argmax(np.linalg.norm(matrix, axis=0))]
    size = 0.0
    for _ in range(POWERS):
        size = float(np.linalg.norm(vector))
        if not size:
            break
        vector = matrix @ (vector / size)
    return size


def lower(covariance: Array) -> Array:
    """Returns a lower triangular L with ``L Lᵀ`` the covariance, but for a relative jitter.

    Features without variance get a variance of one, so that L can be solved with: whatever
    they explain is 0.
    """
    diagonal = np.diag(covariance)
    lifted = np.array(covariance)
    solid = inverse_scale(covariance) > 0
    lifted[np.diag_indices_from(lifted)] = np.where(solid, diagonal * (1.0 + JITTER), 1.0)
    try:
        return np.linalg.cholesky(lifted)
    except np.linalg.LinAlgError:
        lifted[np.diag_indices_from(lifted)] += LEAST * np.where(solid, diagonal, 1.0)
        values, vectors = np.linalg.eigh((lifted + lifted.T) / 2)
        least = LEAST * max(values.max(initial=0.0), np.finfo(np.float64).tiny)
        whole = vectors * np.sqrt(np.maximum(values, least))
        upper: Array = scipy.linalg.qr(whole.T, mode="r", check_finite=False)[0]
        return upper.T * np.where(np.diag(upper) < 0, -1.0, 1.0)


def forward(factor: Array, right: Array) -> Array:
    """Solves a lower triangular system."""
    if not len(factor):
        return right
    return scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)


def add_outer(matrix: Array, column: Array, row: Array, times: float = 1.0) -> None:
    """Adds ``times column rowᵀ`` to a matrix in place; without a product that is made before.

    >>> matrix = np.zeros((2, 3))
    >>> add_outer(matrix, np.array([1.0, 2.0]), np.array([1.0, 0.0, 3.0]), -1.0)
    >>> matrix.tolist()
    [[-1.0, 0.0, -3.0], [-2.0, 0.0, -6.0]]
    """
    if not (matrix.flags.c_contiguous and matrix.dtype == np.float64):
        raise ValueError("a matrix in float64, a row after the other, is changed in place")
    if matrix.size:
        scipy.linalg.blas.dger(times, row, column, a=matrix.T, overwrite_a=True)


def symmetric(matrix: Array) -> Array:
    """Returns the symmetric part."""
    return (matrix + matrix.T) / 2


def descending(matrix: Array, limit: int | None = None) -> tuple[Array, Array]:
    """Returns the largest eigenvalues of a symmetric matrix, clipped at 0, and their vectors."""
    n = len(matrix)
    if not n:
        return np.zeros(0), np.zeros((0, 0))
    few = None if limit is None or limit >= n // 2 else (n - limit, n - 1)
    values, vectors = scipy.linalg.eigh(symmetric(matrix), subset_by_index=few, check_finite=False)
    return np.maximum(values[::-1], 0.0)[:limit], vectors[:, ::-1][:, :limit]


class Root(NamedTuple):
    """A root of a covariance, ``root rootᵀ``, and its pseudo-inverse, ``inverseᵀ root = 1``."""

    root: Array
    inverse: Array


def root(covariance: Array) -> Root:
    """Returns a root of as many columns as the covariance has rank."""
    inverse = inverse_scale(covariance)
    values, vectors = descending(covariance * inverse[:, None] * inverse)
    # Rounding of moments that single precision made may be larger than this: it then counts.
    solid = values > len(values) * 1e-15 * max(values.max(initial=0.0), 1e-300)
    values, vectors = np.sqrt(values[solid]), vectors[:, solid]
    scale = np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)
    return Root(scale[:, None] * vectors * values, inverse[:, None] * vectors / values)


def counted(metric: Array) -> Array:
    """Returns an output metric; the identity where no output depends on the result, to first order.

    That is a metric of zeros: ``(q, q)``.
    """
    total = np.trace(metric)
    return symmetric(metric) if np.isfinite(total) and total > 0 else np.eye(len(metric))


def metric_root(metric: Array) -> Array:
    """Returns a square root of an output metric, its small directions lifted: ``(q, q)``.

    So directions in which nothing costs anything are told apart by how much there is of them.
    """
    own = counted(metric)
    lifted = own + METRIC_FLOOR * np.trace(own) / max(len(own), 1) * np.eye(len(own))
    return scipy.linalg.cholesky(lifted, lower=True, check_finite=False)


class Axes(NamedTuple):
    """Directions of h that say most in a metric, uncorrelated, the most important first.

    Attributes:
      values: ``(s,)`` what each is worth: the error without it.
      basis: ``(m, s)``; ``h @ basis`` has the identity as covariance.
    """

    values: Array
    basis: Array


def axes(covariance_root: Array, metric: Array, limit: int | None = None) -> Axes:
    """Returns the principal axes of a covariance in a metric.

    With ``C = L Lᵀ`` and ``Lᵀ Q L = U Λ Uᵀ`` the basis is ``Q L U Λ⁻¹``: it equals ``C^{-1/2}``
    times the left singular vectors of ``C^{1/2} Q^{1/2}``, and inverts nothing but Λ.

    >>> found = axes(np.diag([1.0, 3.0]), np.eye(2))
    >>> found.values.tolist(), np.abs(found.basis).round(3).tolist()
    ([9.0, 1.0], [[0.0, 1.0], [0.333, 0.0]])
    """
    spread = metric @ covariance_root
    values, vectors = descending(covariance_root.T @ spread, limit)
    solid = values > ROUNDING * max(values.max(initial=0.0), np.finfo(np.float64).tiny)
    return Axes(values[solid], spread @ (vectors[:, solid] / values[solid]))
