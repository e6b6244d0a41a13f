"""Error surfaces: what keeping k coordinates and r linear ones of a site costs, held out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from linjax.fold.engine import turned
from linjax.fold.engine.basis import elimination, straight_basis
from linjax.fold.engine.directions import Left, varying_directions
from linjax.fold.engine.linalg import ROUNDING, floored, forward, lower, solve, symmetric
from linjax.fold.engine.problem import Site, checked, runs, splits, taken
from linjax.fold.engine.pursuit import View, pursue, pursue_all, pursued, twins
from linjax.fold.engine.sharing import shared
from linjax.fold.engine.sight import (
    Data,
    Decoder,
    Sight,
    decoders,
    framed,
    gathered,
    needed,
    reached,
    sights,
)

Array = np.ndarray

LINEAR_LIMIT = 128
"""Largest number of linear units."""
TWINS = 4
"""How many of the twins of picked units are tried in their place."""
TINY = np.finfo(np.float64).tiny


class Surface(NamedTuple):
    """What widths of a site cost.

    Attributes:
      errors: ``(m + 1, r + 1)`` squared errors with k coordinates and r linear ones, summed over
        points and repeats, on rows that were not fitted; non-increasing in both.
      total: what the site is worth: the error with nothing but the mean.
    """

    errors: Array
    total: float


def surface(site: Site, ridge: float) -> Surface:
    """Returns a site's errors at every number of coordinates and of linear ones.

    Args:
      site: the site.
      ridge: weight of the noise that regressions are shrunk by.

    Raises:
      EvidenceError: the site's numbers don't fit, or aren't finite.
    """
    return all_surfaces([site], [(ridge,)])[0][ridge]


def all_surfaces(
    sites: Sequence[Site], ridges: Sequence[Sequence[float]], mesh: Mesh | None = None
) -> list[dict[float, Surface]]:
    """Returns errors of several sites by weight of noise.

    Args:
      sites: the sites.
      ridges: weights by site.
      mesh: whose processes share the work; all of them get all results.
    """
    tasks = [(n, run) for n, site in enumerate(sites) for run in runs(site)]
    costs = [float((run.stop - run.start) * sites[n].coordinates ** 3) for n, run in tasks]

    def measured(task: tuple[int, slice]) -> list[Array]:
        n, run = task
        part, found = checked(taken(sites[n], run)), []
        for folds in splits(part):
            if part.stream is not None:
                stream = part.stream
                own_errors = [turned.errors(stream, part.points, r, folds) for r in ridges[n]]
                found += [errors[:, None] for errors in own_errors]
                continue
            own = framed(part, folds)
            for ridge in ridges[n]:
                data = gathered(part, ridge, own)
                found += [_one(part, data, i) for i in range(part.repeats)]
        return found

    results, found = shared(measured, tasks, costs, mesh), []
    for n, site in enumerate(sites):
        every, errors = len(splits(site)), {r: list[Array]() for r in ridges[n]}
        own = [(result, run) for (m, run), result in zip(tasks, results, strict=True) if m == n]
        for fold in range(every):
            for k, ridge in enumerate(ridges[n]):
                repeats = []
                for result, run in own:
                    size = run.stop - run.start
                    start = (fold * len(ridges[n]) + k) * size
                    repeats += result[start : start + size]
                errors[ridge].append(_added(repeats))
        found.append({ridge: _mean(own) for ridge, own in errors.items()})
    return found


def _mean(found: Sequence[Array]) -> Surface:
    errors = _added(found) / len(found)
    errors = np.minimum.accumulate(np.minimum.accumulate(np.maximum(errors, 0.0), 0), 1)
    return Surface(errors, float(errors[0, 0]))


def _added(surfaces: Sequence[Array]) -> Array:
    """The sum of surfaces whose numbers of directions may differ."""
    columns = max(s.shape[1] for s in surfaces)
    wide = [np.pad(s, ((0, 0), (0, columns - s.shape[1])), mode="edge") for s in surfaces]
    return np.sum(wide, axis=0)


def _one(site: Site, data: Data, repeat: int) -> Array:
    """The surface of one repeat."""
    if site.kind == "aligned":
        return _aligned(data, repeat)[:, None]
    if site.straight:
        seen = sights(site, data, repeat, few=False)
        return _straight(*decoders(seen, site.kind == "paired"))[:, None]
    seen = sights(site, data, repeat, few=True)
    alone = _without_linear(seen)
    errors = _with_linear(seen, alone) if site.sources else alone[:, None]
    errors[len(needed(seen)) :] = 0.0  # with all that say something it is the network itself
    return errors


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


def _scaled(errors: Array, sight: Sight) -> Array:
    """Errors of the target's directions, scaled to all of its variance."""
    units = sight.test[: sight.width, : sight.width]
    whole = float(np.sum(units * sight.metric))
    return errors * (whole / max(float(errors.flat[0]), TINY)) if whole > 0 else errors * 0.0


def _total(sight: Sight) -> float:
    units = sight.test[: sight.width, : sight.width]
    return float(np.sum(sight.target * (units @ sight.target)))


def _nested(sight: Sight, factor: Array, features: Array, fitted: Array) -> Array:
    """Held-out errors of the first 0 … j of some features, given as columns over ``[h | z]``."""
    m = sight.width
    spread = sight.test @ features
    cross = forward(factor, spread[:m].T @ sight.target)
    covariance = forward(factor, forward(factor, features.T @ spread).T)
    errors = held_out(forward(factor, fitted), cross, covariance, _total(sight))
    return _scaled(errors, sight)


def _straight(seen: list[Sight], by: list[Decoder]) -> Array:
    """Held-out errors of 0 … m directions of straight coordinates."""
    m, basis = seen[0].width, straight_basis(seen)
    total = np.zeros(m + 1)
    for sight, own in zip(seen, by, strict=True):
        spread = basis.T @ own.units
        errors = _nested(sight, lower(spread @ basis), basis, spread @ sight.target)
        total += np.pad(errors, (0, m + 1 - len(errors)), mode="edge")
    total[-1] = 0.0
    return np.minimum.accumulate(np.maximum(total, 0.0))


def _aligned(data: Data, repeat: int) -> Array:
    """Errors of 0 … m coordinates where what is dropped is lost."""
    train, test = (
        sum(
            metric[repeat] * (own.covariance[repeat] + np.outer(own.mean[repeat], own.mean[repeat]))
            for own, metric in zip(frames, data.metrics, strict=True)
        )
        for frames in (data.train, data.test)
    )
    order = elimination(train)
    lost = test[np.ix_(order, order)]
    added = 2.0 * np.tril(lost, -1).sum(1) + np.diag(lost)
    errors = np.concatenate([[0.0], np.cumsum(added)])
    return np.maximum.accumulate(np.maximum(errors, 0.0))[::-1].copy()


def _without_linear(seen: list[Sight]) -> Array:
    """Held-out errors with 0 … m units and no linear units."""
    m = seen[0].width
    total = np.zeros(m + 1)
    order, factor = None, None
    if len(seen) == 1:
        pursuit = pursue(seen[0].view)
        order, factor = pursuit.order, pursuit.factor[pursuit.order]
    else:
        order = pursue_all([sight.view for sight in seen])
    for sight in seen:
        own = lower(sight.units[np.ix_(order, order)]) if factor is None else factor
        fitted = (sight.units @ sight.target)[order]
        covariance = forward(own, forward(own, sight.test[np.ix_(order, order)]).T)
        cross = forward(own, sight.test[order, :m] @ sight.target)
        errors = held_out(forward(own, fitted), cross, covariance, _total(sight))
        errors = np.minimum.accumulate(np.pad(errors, (0, m + 1 - len(errors)), mode="edge"))
        total += _scaled(np.maximum(errors, 0.0), sight)
    return total


def _with_linear(seen: list[Sight], alone: Array) -> Array:
    """The surface with linear units, given the errors without them.

    The sources are projected out of the units before a pursuit, and at a handful of k the best
    directions are found; in between the ratio to the error without linear units is
    interpolated over log k.
    """
    m, seen = seen[0].width, reached(seen)
    found = pursued([beside_sources(sight) for sight in seen])
    order, pairs = found.order, twins([sight.units for sight in seen], found)[:TWINS]
    ks = np.unique(np.minimum(grid(m), len(order)))
    ks = ks[(alone[ks] > ROUNDING * alone[0]) | (ks == 0)]  # a ratio to nothing says nothing
    rank = min(sum(sight.target.shape[1] for sight in seen), m, LINEAR_LIMIT)
    totals = [_total(sight) for sight in seen]
    measured = []
    for k in ks:
        own = order[:k]
        tried = [own, *(np.where(own == unit, twin, own) for unit, twin in pairs if unit in own)]
        measured.append(np.min([_at(seen, totals, units, rank) for units in tried], axis=0))
    # More features don't make an error larger, but for what rows that weren't fitted say of it.
    ratio = np.clip(np.stack(measured) / np.maximum(alone[ks], TINY)[:, None], 0.0, 1.0)
    axis, points = np.log1p(ks), np.log1p(np.arange(m + 1))
    spread = [np.interp(points, axis, column) for column in ratio.T[1:]]
    error = alone[:, None] * np.stack([np.ones(m + 1), *spread], 1)
    return np.minimum.accumulate(np.minimum.accumulate(np.maximum(error, 0.0), 0), 1)


def beside_sources(sight: Sight) -> View:
    """Returns the units as they are beside all linear sources."""
    m, target = sight.width, sight.aim
    through = solve(
        sight.sources, np.concatenate([sight.across.T, sight.across.T @ target], axis=1)
    )
    left = sight.units - sight.across @ through[:, :m]
    cross = sight.units @ target - sight.across @ through[:, m:]
    return View(symmetric(left), cross, np.diag(sight.units))


class _Given(NamedTuple):
    """A point given kept units: their factor, and what is orthonormal to them."""

    factor: Array
    inputs: Array
    explained: Array
    left: Left


def _given(sight: Sight, order: Array) -> _Given:
    factor = lower(sight.units[np.ix_(order, order)])
    inputs = forward(factor, sight.across[order])
    explained = forward(factor, sight.units[order] @ sight.target)
    left = floored(sight.sources - inputs.T @ inputs, sight.sources)
    cross = sight.across.T @ sight.target - inputs.T @ explained
    return _Given(factor, inputs, explained, Left(left, cross))


def _at(seen: list[Sight], totals: list[float], order: Array, rank: int) -> Array:
    """Held-out errors with some units and 0 … rank linear units.

    All features are made orthonormal on the fitted rows, so that coefficients are nested:
    units by a Cholesky factor, linear units by what is left of the sources given the units.
    """
    given = [_given(sight, order) for sight in seen]
    spread = np.sum([sight.sources for sight in seen], axis=0)
    found = varying_directions([own.left for own in given], spread, rank)
    total, parts = np.zeros(rank + 1), zip(seen, totals, given, found.readings, strict=True)
    for sight, whole, own, (kernel, explained) in parts:
        m, mix = sight.width, own.inputs @ kernel
        units = forward(own.factor, forward(own.factor, sight.test[np.ix_(order, order)]).T)
        beside = forward(own.factor, sight.test[order, m:] @ kernel)
        corner = beside - units @ mix
        ours = kernel.T @ sight.test[m:, m:] @ kernel - beside.T @ mix - mix.T @ corner
        covariance = np.block([[units, corner], [corner.T, ours]])
        cross = forward(own.factor, sight.test[order, :m] @ sight.target)
        linear = kernel.T @ sight.test[m:, :m] @ sight.target - mix.T @ cross
        coefficients = np.concatenate([own.explained, explained])
        errors = held_out(coefficients, np.concatenate([cross, linear]), covariance, whole)
        errors = _scaled(errors, sight)[len(order) :]
        total += np.pad(errors, (0, rank + 1 - len(errors)), mode="edge")
    return total
