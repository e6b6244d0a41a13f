"""Error surfaces: what keeping k units and r linear units of a site costs, on held-out rows."""

from typing import NamedTuple

import numpy as np
import scipy

from linjax.fold.engine.linalg import JITTER, floored, forward, solve
from linjax.fold.engine.pursuit import Pursuit, View, pursue
from linjax.fold.engine.surface import grid, held_out
from linjax.fold.least_squares.directions import linear_directions
from linjax.fold.least_squares.features import Features, Frame

Array = np.ndarray

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


def principal(data: Frame, target: Features) -> tuple[Array, Array]:
    """Returns a target's variances along its principal directions, and these, largest first."""
    values, vectors = scipy.linalg.eigh(data.within(target), check_finite=False)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def leading(values: Array, vectors: Array) -> Array:
    """Returns the principal directions that hold all but a negligible share of the variance."""
    behind = values.sum() - np.cumsum(values)
    rank = int(np.searchsorted(-behind, -TARGET_SHARE * values.sum())) + 1
    return vectors[:, : min(rank, TARGET_LIMIT)]


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
    h, m = problem.units, problem.units.width
    fit = _Blocks.of(problem, train)
    total = float(np.trace(test.within(problem.target)))
    alone = _without_linear(pursue(View(fit.hh, fit.ht)), test, problem, total)
    order = _beside_inputs(fit)
    ks = np.unique(np.minimum(grid(m), len(order)))
    rank = min(problem.target.width, problem.inputs.width)
    measured = np.stack(
        [_with_linear(problem, fit, test, h.take(order[:k]), order[:k], rank, total) for k in ks]
    )
    ratio = np.maximum(measured, 0.0) / np.maximum(alone[ks], np.finfo(np.float64).tiny)[:, None]
    axis, points = np.log1p(ks), np.log1p(np.arange(m + 1))
    spread = [np.interp(points, axis, column) for column in ratio.T[1:]]
    error = alone[:, None] * np.stack([np.ones(m + 1), *spread], 1)
    return np.minimum.accumulate(np.minimum.accumulate(np.maximum(error, 0.0), 0), 1)


class _Blocks(NamedTuple):
    """Covariances of units h, inputs v and target t on the rows that are fitted."""

    hh: Array
    hv: Array
    vv: Array
    ht: Array
    vt: Array

    @classmethod
    def of(cls, problem: SiteProblem, data: Frame) -> "_Blocks":
        v, h, t = problem.inputs, problem.units, problem.target
        return cls(
            data.within(h), data.between(h, v), data.within(v), data.between(h, t),
            data.between(v, t),
        )  # fmt: skip


def _without_linear(pursuit: Pursuit, test: Frame, problem: SiteProblem, total: float) -> Array:
    """Held-out errors with 0 … m units and no linear units."""
    chosen = problem.units.take(pursuit.order)
    factor = pursuit.factor[pursuit.order]
    covariance = forward(factor, forward(factor, test.within(chosen)).T)
    cross = forward(factor, test.between(chosen, problem.target))
    errors = held_out(pursuit.explained, cross, covariance, total)
    errors = np.pad(errors, (0, problem.units.width + 1 - len(errors)), mode="edge")
    return np.maximum(np.minimum.accumulate(errors), 0.0)


def _beside_inputs(fit: _Blocks) -> Array:
    """The order of units whose inputs come along linearly in full."""
    m = len(fit.hh)
    through = solve(fit.vv, np.concatenate([fit.hv.T, fit.vt], 1))
    left = fit.hh - fit.hv @ through[:, :m]
    cross = fit.ht - fit.hv @ through[:, m:]
    return pursue(View((left + left.T) / 2, cross, np.diag(fit.hh))).order


def _with_linear(
    problem: SiteProblem, fit: _Blocks, test: Frame, kept: Features, order: Array, rank: int,
    total: float,
) -> Array:  # fmt: skip
    """Held-out errors with some units and 0 … rank linear units.

    All features are made orthonormal on the fitted rows, so that coefficients are nested:
    units by a Cholesky factor, linear units by what is left of the inputs given the units.
    """
    lifted = fit.hh[np.ix_(order, order)]
    lifted[np.diag_indices_from(lifted)] *= 1.0 + JITTER
    factor = np.linalg.cholesky(lifted)
    inputs, explained = forward(factor, fit.hv[order]), forward(factor, fit.ht[order])
    left = floored(fit.vv - inputs.T @ inputs, fit.vv)
    found = linear_directions(left, fit.vt - inputs.T @ explained, rank)
    u, mix = problem.inputs @ found.kernel, inputs @ found.kernel

    units = forward(factor, forward(factor, test.within(kept)).T)
    beside = forward(factor, test.between(kept, u))
    corner = beside - units @ mix
    own = test.within(u) - beside.T @ mix - mix.T @ corner
    covariance = np.block([[units, corner], [corner.T, own]])
    cross = forward(factor, test.between(kept, problem.target))
    cross = np.concatenate([cross, test.between(u, problem.target) - mix.T @ cross])
    coefficients = np.concatenate([explained, found.explained])
    errors = held_out(coefficients, cross, covariance, total)[len(order) :]
    return np.pad(errors, (0, rank + 1 - len(errors)), mode="edge")
