"""Error surfaces: what keeping k units and r linear units of a site costs, on held-out rows."""

from typing import NamedTuple

import numpy as np
import scipy.linalg

from linjax.fold.least_squares.directions import linear_directions, solve
from linjax.fold.least_squares.features import Features, Frame
from linjax.fold.least_squares.selection import Pursuit, pursue

Array = np.ndarray

METRIC_FLOOR = 0.02
"""Share of its mean that every direction of a pre-activation is worth at least."""
TARGET_SHARE = 1e-4
"""Variance of the weighted target that may be left out of the search."""
TARGET_LIMIT = 128
"""Largest number of target directions, hence of linear units, that are searched."""


class SiteProblem(NamedTuple):
    """What folding one site is about: features in, units, and the target behind them.

    Attributes:
      inputs: features v that the producer reads, from which linear units are drawn.
      units: activations h of the units.
      target: consumers' pre-activation in the output metric, ``z G^{1/2}``, in few directions.
    """

    inputs: Features
    units: Features
    target: Features


def metric_root(sensitivity: Array) -> Array:
    """Returns a square root of the sensitivity, its small directions lifted: ``(q, q)``.

    A sensitivity of zero (no output depends on the layer, to first order) counts as identity.
    """
    q = len(sensitivity)
    mean = np.trace(sensitivity) / max(q, 1)
    if not np.isfinite(mean) or mean <= 0.0:
        return np.eye(q)
    lifted = sensitivity + METRIC_FLOOR * mean * np.eye(q)
    return scipy.linalg.cholesky((lifted + lifted.T) / 2, lower=True, check_finite=False)


def principal(data: Frame, target: Features) -> tuple[Array, Array]:
    """Returns a target's variances along its principal directions, and these, largest first."""
    values, vectors = scipy.linalg.eigh(data.within(target), check_finite=False)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def few_directions(target: Features, values: Array, vectors: Array) -> Features:
    """Returns the target in its principal directions, but for a negligible share of it."""
    behind = values.sum() - np.cumsum(values)
    rank = int(np.searchsorted(-behind, -TARGET_SHARE * values.sum())) + 1
    return target @ vectors[:, : min(rank, TARGET_LIMIT)]


def held_out(train: Array, cross: Array, covariance: Array, total: float) -> Array:
    """Returns errors of nested regressions on rows that they were not fitted to.

    Args:
      train: ``(j, q)`` coefficients of features that are orthonormal on the training rows.
      cross: ``(j, q)`` the features' covariance with the target on the other rows.
      covariance: ``(j, j)`` the features' covariance there.
      total: the target's variance there.

    Returns:
      ``(j + 1,)`` errors with the first 0 … j features.
    """
    quadratic = (train @ train.T) * covariance
    inside = 2.0 * np.tril(quadratic, -1).sum(1) + np.diag(quadratic)
    gain = 2.0 * np.einsum("jq,jq->j", train, cross) - inside
    return total - np.concatenate([[0.0], np.cumsum(gain)])


def grid(m: int) -> Array:
    """Returns the numbers of kept units at which linear units are tried, about eight of them."""
    powers = 2.0 ** np.arange(0, np.log2(max(m, 1)) + 1e-9, max(1.0, np.log2(max(m, 2)) / 7.0))
    return np.unique(np.concatenate([[0], np.round(powers).astype(int), [m]]))


def _without_linear(pursuit: Pursuit, test: Frame, problem: SiteProblem, total: float) -> Array:
    """Held-out errors with 0 … k units and no linear units."""
    chosen = problem.units.take(pursuit.order)
    triangle = pursuit.factor[pursuit.order]
    forward = lambda b: scipy.linalg.solve_triangular(triangle, b, lower=True, check_finite=False)
    covariance = forward(forward(test.within(chosen)).T)
    cross = forward(test.between(chosen, problem.target))
    return held_out(pursuit.explained, cross, covariance, total)


def site_surface(problem: SiteProblem, train: Frame, test: Frame) -> Array:
    """Returns the errors of every number of kept and linear units.

    Without linear units every k comes from one pursuit. With them, v is projected out of the
    units before the pursuit, and at a handful of k the best directions are found; in between
    the ratio to the error without linear units is interpolated over log k.

    Args:
      problem: the site.
      train: moments to fit on.
      test: moments to measure on.

    Returns:
      ``(m + 1, r + 1)`` squared errors of the target with k units and r linear units, on
      rows that were not fitted; non-increasing in both.
    """
    v, h, t = problem.inputs, problem.units, problem.target
    total = float(np.trace(test.within(t)))
    m = h.width
    c_hh, c_hv, c_vv = train.within(h), train.between(h, v), train.within(v)
    r_h, r_v = train.between(h, t), train.between(v, t)

    plain = pursue(c_hh, r_h)
    alone = np.full(m + 1, np.nan)
    errors = _without_linear(plain, test, problem, total)
    alone[: len(errors)] = np.minimum.accumulate(errors)
    alone[len(errors) :] = alone[len(errors) - 1]

    through = solve(c_vv, np.concatenate([c_hv.T, r_v], 1))
    c_beside, r_beside = c_hh - c_hv @ through[:, :m], r_h - c_hv @ through[:, m:]
    beside = pursue((c_beside + c_beside.T) / 2, r_beside)
    ks = np.unique(np.minimum(grid(m), len(beside.order)))
    rank = min(t.width, v.width)
    measured = np.zeros((len(ks), rank + 1))
    for row, k in enumerate(ks):
        order = beside.order[:k]
        triangle = np.linalg.cholesky(
            c_hh[np.ix_(order, order)] + 1e-9 * np.diag(np.diag(c_hh)[order])
        )
        forward = lambda b: scipy.linalg.solve_triangular(
            triangle, b, lower=True, check_finite=False
        )
        x, e = forward(c_hv[order]), forward(r_h[order])
        found = linear_directions(c_vv - x.T @ x, r_v - x.T @ e, rank)
        u = v @ found.kernel
        kept = h.take(order)
        k_u = forward(test.between(kept, u)) if k else np.zeros((0, u.width))
        k_k = forward(forward(test.within(kept)).T)
        mix = x @ found.kernel
        top = k_u - k_k @ mix
        bottom = test.within(u) - k_u.T @ mix - mix.T @ top
        covariance = np.block([[k_k, top], [top.T, bottom]])
        k_t = forward(test.between(kept, t))
        cross = np.concatenate([k_t, test.between(u, t) - mix.T @ k_t])
        errors = held_out(np.concatenate([e, found.explained]), cross, covariance, total)[k:]
        measured[row, : len(errors)] = errors
        measured[row, len(errors) :] = errors[-1]
    ratio = np.maximum(measured, 0.0) / np.maximum(alone[ks], 1e-30)[:, None]
    axis, points = np.log1p(ks), np.log1p(np.arange(m + 1))
    spread = np.stack([np.interp(points, axis, column) for column in ratio.T], 1)
    error = alone[:, None] * np.concatenate([np.ones((m + 1, 1)), spread[:, 1:]], 1)
    return np.minimum.accumulate(np.minimum.accumulate(np.maximum(error, 0.0), 0), 1)
