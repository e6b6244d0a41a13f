"""What keeping k channels and r linear channels of a site costs, on held-out rows."""

from typing import NamedTuple

import numpy as np
import scipy

from linjax.fold.channels.groups import balanced, groups_of
from linjax.fold.channels.problem import (
    Problem,
    Reader,
    frames,
    kept_features,
    target,
    through,
)
from linjax.fold.channels.pursuit import View, pursue
from linjax.fold.least_squares.directions import JITTER, solve
from linjax.fold.least_squares.features import Features, Frame, side_by_side
from linjax.fold.least_squares.surface import grid, held_out

Array = np.ndarray

LINEAR_LIMIT = 64
"""Largest number of linear channels that are searched."""


class Sight(NamedTuple):
    """A reader, or a group of one, with moments to fit on, others to measure on, and its target.

    Its channels are those that it reads.
    """

    reader: Reader
    train: Frame
    test: Frame
    target: Features
    channels: Array


def sights(problem: Problem) -> list[Sight]:
    """Returns all readers of a site with their moments."""
    found = []
    for reader in problem.readers:
        found += reader_sights(problem, reader, *frames(reader))
    return found


def reader_sights(problem: Problem, reader: Reader, train: Frame, test: Frame) -> list[Sight]:
    """Returns a reader's groups with its moments."""
    return [
        Sight(own, train, test, target(problem, own, train), channels)
        for own, channels, _ in groups_of(reader)
    ]


def order_alone(problem: Problem, seen: list[Sight], steps: int | None = None) -> Array:
    """Orders the channels by their worth without linear channels beside them."""
    if problem.groups > 1:
        return _order_in_groups(problem, seen)
    return _order(problem, seen, np.arange(problem.channels), steps)


def _order(problem: Problem, seen: list[Sight], channels: Array, steps: int | None = None) -> Array:
    """Orders some channels by their worth."""
    views = []
    for sight in seen:
        f = kept_features(problem, sight.reader, channels)
        views.append(
            View(sight.train.within(f), sight.train.between(f, sight.target), sight.reader.taps)
        )
    return channels[pursue(views, steps)]


def _order_in_groups(problem: Problem, seen: list[Sight]) -> Array:
    """Orders channels so that all groups lose as many; readers of most at once decide."""
    most = max(len(sight.channels) for sight in seen)
    wide = [sight for sight in seen if len(sight.channels) == most]
    starts = sorted({int(sight.channels[0]) for sight in wide})
    orders = [
        _order(problem, own, own[0].channels)
        for own in ([s for s in wide if s.channels[0] == start] for start in starts)
    ]
    return balanced(np.concatenate(orders), problem.groups, problem.channels)


def order_beside(
    problem: Problem, seen: list[Sight], mix: Array, steps: int | None = None
) -> Array:
    """Orders the channels by their worth beside linear channels ``z @ mix``."""
    everything = np.arange(problem.channels)
    views = []
    for sight in seen:
        f = kept_features(problem, sight.reader, everything)
        u = through(problem, sight.reader, mix)
        c_uu, c_uf = sight.train.within(u), sight.train.between(u, f)
        c_ut = sight.train.between(u, sight.target)
        given = solve(c_uu, np.concatenate([c_uf, c_ut], axis=1))
        covariance = sight.train.within(f) - c_uf.T @ given[:, : f.width]
        cross = sight.train.between(f, sight.target) - c_uf.T @ given[:, f.width :]
        views.append(View((covariance + covariance.T) / 2, cross, sight.reader.taps))
    return pursue(views, steps)


def linear_mix(problem: Problem, seen: list[Sight], kept: Array, limit: int) -> Array:
    """Returns the linear channels that say most about the targets beside kept channels.

    With M the coefficients of the targets on all pre-activations in the patch, given the
    kept channels, reshaped so that all taps and readers stand side by side, and S the
    pre-activations' covariance given those, averaged over taps: the columns of
    ``S^{-1/2} U``, U the leading left singular vectors of ``S^{1/2} M``.

    Returns:
      ``(units, r)``, the most useful first.
    """
    units = problem.units
    spread = np.zeros((units, units))
    parts = []
    for sight in seen:
        taps = sight.reader.taps
        z = through(problem, sight.reader, np.eye(units))  # unit by unit
        c_zz, c_zt = sight.train.within(z), sight.train.between(z, sight.target)
        if len(kept):
            f = kept_features(problem, sight.reader, kept)
            c_fz = sight.train.between(f, z)
            given = solve(
                sight.train.within(f),
                np.concatenate([c_fz, sight.train.between(f, sight.target)], axis=1),
            )
            c_zz = c_zz - c_fz.T @ given[:, : z.width]
            c_zt = c_zt - c_fz.T @ given[:, z.width :]
        m = solve(c_zz, c_zt, 1e-6)
        own = c_zz.reshape(units, taps, units, taps)
        spread += np.einsum("itjt->ij", own) / taps
        parts.append(m.reshape(units, -1))
    together = np.concatenate(parts, axis=1)
    values, vectors = scipy.linalg.eigh((spread + spread.T) / 2)
    solid = values > 1e-9 * max(values.max(initial=0.0), np.finfo(float).tiny)
    root = vectors[:, solid] * np.sqrt(values[solid])
    inverse = vectors[:, solid] / np.sqrt(values[solid])
    left, strength, _ = np.linalg.svd(root.T @ together, full_matrices=False)
    rank = int(np.sum(strength > 1e-6 * strength.max(initial=0.0)))
    return inverse @ left[:, : min(rank, limit)]


def nested(train: Frame, test: Frame, features: Features, target_: Features) -> Array:
    """Returns held-out errors of a target with the first 0 … all of some features."""
    covariance = train.within(features)
    scale = np.diag(covariance).copy()
    covariance[np.diag_indices_from(covariance)] += JITTER * scale + 1e-9 * max(
        scale.mean() if len(scale) else 0.0, np.finfo(float).tiny
    )
    factor = np.linalg.cholesky(covariance)

    def forward(right: Array) -> Array:
        if not len(factor):
            return right
        return scipy.linalg.solve_triangular(factor, right, lower=True, check_finite=False)

    explained = forward(train.between(features, target_))
    own = forward(forward(test.within(features)).T)
    cross = forward(test.between(features, target_))
    return held_out(explained, cross, own, float(np.trace(test.within(target_))))


def surface(problem: Problem, seen: list[Sight]) -> Array:
    """Returns the error of every number of kept channels and of linear channels.

    Args:
      problem: the site.
      seen: its readers, with moments.

    Returns:
      ``(n + 1, r + 1)`` squared errors of all readers' targets together, on rows that were
      not fitted; non-increasing in both.
    """
    n = problem.channels
    order = order_alone(problem, seen)
    alone = np.zeros(n // problem.groups + 1)
    for sight in seen:
        f = kept_features(problem, sight.reader, order[np.isin(order, sight.channels)])
        errors = nested(sight.train, sight.test, f, sight.target)[:: sight.reader.taps]
        errors = errors[:: problem.groups * len(sight.channels) // n]
        alone += np.pad(errors, (0, len(alone) - len(errors)), mode="edge")
    alone = np.repeat(np.maximum(np.minimum.accumulate(alone), 0.0), problem.groups)[: n + 1]
    alone[n] = 0.0  # nothing is refitted where nothing goes
    if not problem.may_be_linear:
        return alone[:, None]
    rank = min(problem.units, LINEAR_LIMIT)
    beside = order_beside(problem, seen, np.eye(problem.units))
    ks = np.unique(np.minimum(grid(n), len(beside)))
    rows = []
    for k in ks:
        options = [beside[:k], order[:k]] if 0 < k < n else [beside[:k]]
        rows.append(np.min([_with_linear(problem, seen, kept, rank) for kept in options], axis=0))
    measured = np.maximum(np.stack(rows), 0.0)
    ratio = measured / np.maximum(alone[ks], np.finfo(float).tiny)[:, None]
    axis, points = np.log1p(ks), np.log1p(np.arange(n + 1))
    spread = np.stack([np.interp(points, axis, column) for column in ratio.T[1:]], axis=1)
    error = alone[:, None] * np.concatenate([np.ones((n + 1, 1)), spread], axis=1)
    return np.minimum.accumulate(np.minimum.accumulate(error, 0), 1)


def _with_linear(problem: Problem, seen: list[Sight], kept: Array, rank: int) -> Array:
    """Held-out errors with some kept channels and 0 … rank linear ones."""
    mix = linear_mix(problem, seen, kept, rank)
    total = np.zeros(rank + 1)
    for sight in seen:
        parts = [
            kept_features(problem, sight.reader, kept),
            through(problem, sight.reader, mix),
        ]
        errors = nested(sight.train, sight.test, side_by_side(parts), sight.target)
        errors = errors[len(kept) * sight.reader.taps :: sight.reader.taps]
        total += np.pad(errors, (0, rank + 1 - len(errors)), mode="edge")
    return total


class Choice(NamedTuple):
    """What a site keeps.

    Attributes:
      kept: indices of channels, ascending: units, then linear channels that were there.
      mix: ``(units, r)`` new linear channels as combinations of pre-activations.
    """

    kept: Array
    mix: Array


def choose(problem: Problem, seen: list[Sight], k: int, r: int) -> Choice:
    """Chooses k channels and r linear channels that together explain most of the targets."""
    none = np.zeros((problem.units, 0))
    alone = order_alone(problem, seen, k)[:k]
    if not r or not problem.may_be_linear:
        return Choice(np.sort(alone), none)
    options = [alone]
    first = linear_mix(problem, seen, np.zeros(0, int), r)
    for mix in (np.eye(problem.units), first):
        options.append(order_beside(problem, seen, mix, k))
    choices = []
    for kept in options:
        mix = linear_mix(problem, seen, kept, r)
        error = 0.0
        for sight in seen:
            f = side_by_side(
                [kept_features(problem, sight.reader, kept), through(problem, sight.reader, mix)]
            )
            error += nested(sight.train, sight.train, f, sight.target)[-1]
        choices.append((error, Choice(np.sort(kept), mix)))
    return min(choices, key=lambda pair: pair[0])[1]
