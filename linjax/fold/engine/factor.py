"""Kernels factored through few directions of what they read, by algebra alone.

The result's error in its metric G is that of the kernel's input x in the metric ``W G Wᵀ``:
the directions that pass are the principal axes of x there. There is no regression on data that
could overfit.
"""

import numpy as np

from linjax.fold.engine.linalg import (
    ROUNDING,
    Axes,
    axes,
    counted,
    descending,
    metric_root,
    root,
)

Array = np.ndarray


def curve(train: Array, test: Array, kernel: Array, metric: Array) -> Array:
    """Returns the error of a kernel's result behind each rank, on rows that nothing was fitted to.

    Args:
      train: ``(p, p)`` covariance of what the kernel reads, for the directions.
      test: ``(p, p)`` covariance on other rows, for the errors.
      kernel: ``(p, q)``; kernels that are repeated ``(n, p, q)``, all else likewise.
      metric: ``(q, q)`` the result's.

    Returns:
      ``(min(p, q) + 1,)`` errors of ranks 0, 1, …, summed over repeats.
    """
    if kernel.ndim == 3:
        return np.sum(list(map(curve, train, test, kernel, metric)), axis=0)
    basis = _axes(train, kernel @ metric_root(metric)).basis
    own = counted(metric)  # as it is: what is lifted there to choose by would be a cost here
    # What passes is x P Pᵀ C: its error is that of t less a projection, t = x W.
    through = train @ basis
    passed = basis.T @ test
    reads = through.T @ kernel
    gain = 2.0 * np.einsum("sq,sq->s", passed @ kernel @ own, reads)
    quadratic = (reads @ own @ reads.T) * (passed @ basis)
    gain -= 2.0 * np.tril(quadratic, -1).sum(1) + np.diag(quadratic)
    whole = np.einsum("pq,pq->", test @ kernel, kernel @ own)
    errors = whole - np.concatenate([[0.0], np.cumsum(gain)])
    ranks = min(kernel.shape)
    errors = np.pad(errors, (0, max(ranks + 1 - len(errors), 0)), mode="edge")[: ranks + 1]
    errors[-1] = 0.0  # the kernel itself
    return np.maximum(np.minimum.accumulate(errors), 0.0)


def factor(
    covariance: Array, mean: Array, kernel: Array, metric: Array, rank: int
) -> tuple[Array, Array, Array]:
    """Factors a kernel: ``W ≈ down @ up``, the projection onto what passes.

    With P the principal axes of x, ``down = P`` and ``up = Pᵀ C W``.

    Args:
      covariance: ``(p, p)`` C of what the kernel reads.
      mean: ``(p,)`` its mean.
      kernel: ``(p, q)``; kernels that are repeated ``(n, p, q)``, all else likewise.
      metric: ``(q, q)`` the result's.
      rank: number of directions s that pass.

    Returns:
      ``(p, s)`` down, ``(s, q)`` up, and ``(q,)`` what the bias gains, so that the result is
      unchanged at the mean.
    """
    if kernel.ndim == 3:
        found = [factor(*each, rank) for each in zip(covariance, mean, kernel, metric, strict=True)]
        down, up, change = map(np.stack, zip(*found, strict=True))
        return down, up, change
    basis = _axes(covariance, kernel @ metric_root(metric)).basis[:, :rank]
    down = np.zeros((len(kernel), rank))
    down[:, : basis.shape[1]] = basis
    up = down.T @ covariance @ kernel
    return down, up, mean @ (kernel - down @ up)


def _axes(covariance: Array, weighted: Array) -> Axes:
    """Principal axes of x in the metric ``M Mᵀ``, by the smaller of two eigen-problems."""
    p, q = weighted.shape
    if p <= q:
        return axes(root(covariance).root, weighted @ weighted.T)
    values, vectors = descending(weighted.T @ covariance @ weighted)
    solid = values > ROUNDING * max(values.max(initial=0.0), np.finfo(np.float64).tiny)
    return Axes(values[solid], weighted @ (vectors[:, solid] / np.sqrt(values[solid])))
