"""Streams that norms run over, in fewer coordinates: x becomes x Q, Q's columns orthonormal.

A norm of ``x Q`` is that of x, turned, but for what the dropped directions had: it divides by the
root of what is left. So what a direction costs is what kernels behind the norms lose with it, and
how much the norms' factors change from sample to sample without it. All is told of the normalised
coordinates n at every point; a kernel that reads ``γ n + β`` takes γ and β over.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

from linjax.fold.engine.basis import leading
from linjax.fold.engine.linalg import descending, forward, lower, solve, symmetric
from linjax.fold.engine.problem import Point, Stream, frame

Array = np.ndarray

ENERGY = (0.0, 0.3)
"""Weights of what directions hold beside what they say, by which these are ranked."""
GRID = 24
"""Numbers of coordinates at which a kernel is looked at that makes them and reads them."""
SOLID = 1e-10
"""Share of the largest variance below which nothing is."""
TINY = np.finfo(np.float64).tiny


class Seen(NamedTuple):
    """A point: second moments of n about zero to fit on, others to measure on, the metric of n."""

    train: Array
    test: Array
    metric: Array


class Turned(NamedTuple):
    """Fewer coordinates of a stream.

    Attributes:
      basis: ``(m, k)``: makers make ``x @ basis``.
      decode: by point ``(k, m)``: n is rebuilt from the norm's result on these.
      error: predicted squared error.
    """

    basis: Array
    decode: list[Array]
    error: float


def seen_at(points: Sequence[Point], folds: tuple[list[int], list[int]] | None) -> list[Seen]:
    """Moments at all points; of the same rows to fit on and to measure on by default."""
    found = []
    for point in points:
        train, test = (frame(point.moments, own) for own in folds or (None, None))
        metric = symmetric(np.asarray(point.metric[0], np.float64))
        found.append(Seen(train.covariance[0], test.covariance[0], metric))
    return found


def directions(stream: Stream, seen: Sequence[Seen]) -> list[Array]:
    """Orthonormal directions, the most useful first, by several standards: ``(m, s)`` each.

    What moves together with what says most; and the principal axes of what is read, each point's
    second moments weighed by what its readers make of them.
    """
    total = np.sum([own.train for own in seen], axis=0)
    values, vectors = descending(total)
    solid = vectors[:, values > SOLID * max(values.max(initial=0.0), TINY)]
    if stream.centred:
        solid = np.linalg.qr(solid - solid.mean(0))[0][:, : min(solid.shape[1], len(solid) - 1)]
    found = []
    for share in ENERGY:
        metrics = [
            own.metric + share * _worth(own.metric, own.train) / max(np.trace(own.train), TINY)
            * np.eye(len(own.metric))
            for own in seen
        ]  # fmt: skip
        told = total @ leading([own.train for own in seen], metrics)
        found.append(_orthonormal(solid.T @ told, solid))
    worth = sum(
        _worth(own.metric, own.train) / max(np.trace(own.train), TINY) * own.train for own in seen
    )
    principal = solid @ descending(solid.T @ worth @ solid)[1]
    return [*found, principal]


def _orthonormal(told: Array, solid: Array) -> Array:
    """Nested orthonormal columns, with all that moves behind them."""
    size = np.linalg.norm(told, axis=0)
    told = told[:, size > 0] / size[size > 0]
    both = np.concatenate([told, np.eye(len(told))], axis=1)
    turn, _ = scipy.linalg.qr(both, mode="economic", check_finite=False)
    return np.asarray(solid @ turn)


def _worth(metric: Array, covariance: Array) -> float:
    return float(np.sum(metric * covariance))


def errors(stream: Stream, points: Sequence[Point], ridge: float,
           folds: tuple[list[int], list[int]] | None) -> Array:  # fmt: skip
    """Predicted squared errors with 0 … m coordinates, measured on other rows."""
    seen = seen_at(points, folds)
    m = len(seen[0].metric)
    all_ = [_errors(stream, seen, basis, ridge) for basis in directions(stream, seen)]
    least = np.min([np.pad(own, (0, m + 1 - len(own)), mode="edge") for own in all_], axis=0)
    if stream.centred:  # one coordinate carries nothing: all of them sum to zero
        least = np.concatenate([least[:1], least[:-1]])
    least[-1] = 0.0
    return np.asarray(np.minimum.accumulate(np.maximum(least, 0.0)))


def turned(stream: Stream, points: Sequence[Point], k: int, ridge: float) -> Turned:
    """The best k coordinates."""
    seen = seen_at(points, None)
    s = k - stream.centred
    candidates = [basis[:, :s] for basis in directions(stream, seen)]
    costs = [_errors(stream, seen, basis, ridge)[-1] for basis in candidates]
    best = int(np.argmin(costs))
    basis = _told_apart(stream, candidates[best])
    decode = [
        _decoded(stream, n, own, basis, ridge) / _louder(stream, n, own, basis)
        for n, own in enumerate(seen)
    ]
    if stream.centred:
        spread = balanced(basis.shape[1])
        basis, decode = basis @ spread, [spread.T @ own for own in decode]
    more = k - basis.shape[1]  # nothing moves in more directions
    return Turned(
        np.pad(basis, ((0, 0), (0, more))),
        [np.pad(own, ((0, more), (0, 0))) for own in decode],
        costs[best],
    )


def balanced(n: int) -> Array:
    """``(n, n + 1)`` orthonormal rows that sum to zero.

    >>> balanced(1).round(3).tolist()
    [[0.707, -0.707]]
    """
    found = np.zeros((n, n + 1))
    for i in range(n):
        found[i, : i + 1] = 1.0
        found[i, i + 1] = -(i + 1.0)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _told_apart(stream: Stream, basis: Array) -> Array:
    """The same span, turned so that a scale which stays is one of its coordinates again."""
    if stream.tied < 0:
        return basis
    scale = stream.scales[stream.tied]
    return np.asarray(basis @ np.linalg.eigh(symmetric(basis.T @ (scale[:, None] * basis)))[1])


def _decoded(stream: Stream, n: int, own: Seen, basis: Array, ridge: float) -> Array:
    """What rebuilds n from n Q: least squares, shrunk towards Qᵀ."""
    if n == stream.tied:
        scale = stream.scales[n]
        kept = basis.T @ (scale[:, None] * basis)
        return np.asarray(np.diag(np.diag(kept)) @ basis.T / scale)
    spread = basis.T @ own.train
    inner = symmetric(spread @ basis)
    left = spread - inner @ basis.T
    return np.asarray(basis.T + solve(inner + ridge * np.diag(np.diag(inner)), left))


def _louder(stream: Stream, n: int, own: Seen, basis: Array) -> float:
    """By how much a norm makes louder what is left."""
    if not stream.normed[n]:
        return 1.0
    left = float(np.sum((basis.T @ own.train) * basis.T))
    return float(np.sqrt(np.trace(own.train) / max(left, TINY))) if left > 0 else 1.0


def _errors(stream: Stream, seen: Sequence[Seen], basis: Array, ridge: float) -> Array:
    """Squared errors with the first 0 … s directions."""
    total = np.zeros(basis.shape[1] + 1)
    for n, own in enumerate(seen):
        if n == stream.tied:
            total += _tied(stream.scales[n], own, basis)
        else:
            total += _fitted(own, basis, ridge)
        if stream.normed[n]:
            total += _restless(own, basis)
    return total


def _fitted(own: Seen, basis: Array, ridge: float) -> Array:
    """Errors of regressions on the first directions, on the rows that are measured on."""
    spread, seen = basis.T @ own.train, basis.T @ own.test
    inner = symmetric(spread @ basis)
    factor = lower(inner + ridge * np.diag(np.diag(inner)))
    # What is fitted is what Qᵀ leaves: n (1 − Q Qᵀ), which changes with every direction.
    rooted = symmetric(own.metric)
    fitted = forward(factor, spread + ridge * np.diag(np.diag(inner)) @ basis.T)
    cross, cov = forward(factor, seen), forward(factor, forward(factor, symmetric(seen @ basis)).T)
    weighted = fitted @ rooted
    quadratic = (weighted @ fitted.T) * cov
    inside = 2.0 * np.tril(quadratic, -1).sum(1) + np.diag(quadratic)
    gain = 2.0 * np.einsum("jq,jq->j", weighted, cross) - inside
    return _worth(own.metric, own.test) - np.concatenate([[0.0], np.cumsum(gain)])


def _tied(scale: Array, own: Seen, basis: Array) -> Array:
    """Errors at a kernel that reads ``γ n`` in the basis that it makes, by a scale for each."""
    rest = scipy.linalg.null_space(basis.T) if basis.shape[1] < len(basis) else basis[:, :0]
    full = np.concatenate([basis, rest], axis=1)
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    metric = full.T @ (inverse[:, None] * own.metric * inverse) @ full
    moments, scaled = full.T @ own.test @ full, full.T @ (scale[:, None] * full)
    s = basis.shape[1]
    at = np.unique(np.linspace(0, s, min(GRID, s + 1)).round().astype(int))
    found = []
    for k in at:
        lost = scaled.copy()
        lost[:k, :k] = 0.0
        found.append(_worth(metric, lost @ moments @ lost.T))
    return np.interp(np.arange(s + 1), at, found)


def _restless(own: Seen, basis: Array) -> Array:
    """What norms' factors that change from sample to sample cost: half the dropped share's spread.

    Without directions that hold ``|δ|²`` of ``|n|²`` a norm is larger by ``|δ|² / 2|n|²``. A factor
    makes up for the mean; of normally distributed δ of covariance D the variance is ``2 tr D²``.
    """
    moments = basis.T @ own.test @ basis
    squares = moments**2
    # Σ_{i,j ≥ k}: what is dropped with the first k kept.
    left = np.cumsum(np.cumsum(squares[::-1, ::-1], 0), 1).diagonal()[::-1]
    left = np.append(left, 0.0)
    whole = np.trace(own.test)
    return np.asarray(left / max(2.0 * whole**2, TINY) * _worth(own.metric, own.test))
