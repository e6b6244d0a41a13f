"""One repeat of a site as one point sees it: moments to fit on, others to measure on, a target."""

from typing import NamedTuple

import numpy as np

from linjax.fold.engine.linalg import JITTER, Axes, axes, inverse_scale, root, varying
from linjax.fold.engine.problem import Frame, Point, Site, distinct, frame, goal_frame
from linjax.fold.engine.pursuit import View
from linjax.fold.engine.shrink import noise

Array = np.ndarray

TARGET_SHARE = 1e-4
"""Variance of the target that may be left out of the search for a surface."""
MIXED = 8
"""Number of random mixtures of what is left out, by which that is measured."""
SEARCHED = 128
"""Number of target directions that units are searched by for a surface: it is measured by all."""
CHOSEN = 512
"""Number of target directions that units are searched by for a fold."""


class Sight(NamedTuple):
    """What a point sees of one repeat.

    Attributes:
      width: number m of units.
      train: ``(w, w)`` covariance of ``[h | z]`` to fit on, shrunk.
      test: ``(w, w)`` covariance to measure on.
      mean: ``(w,)`` on the rows that are fitted.
      metric: ``(m, m)``.
      target: ``(m, q)``: ``t = h @ target`` are the directions that count, in their size, the
        largest first.
      searched: how many of these units are searched by.
      goal: ``(w, m)`` covariance of the coordinates with what the readers should get.
      size: variance of that in the metric.
      own: whether it is the units themselves.
    """

    width: int
    train: Array
    test: Array
    mean: Array
    metric: Array
    target: Array
    searched: int
    goal: Array
    size: float
    own: bool

    @property
    def units(self) -> Array:
        """Covariance of the units."""
        return self.train[: self.width, : self.width]

    @property
    def sources(self) -> Array:
        """Covariance of the linear sources."""
        return self.train[self.width :, self.width :]

    @property
    def across(self) -> Array:
        """``(m, m)`` covariance of the units with the linear sources."""
        return self.train[: self.width, self.width :]

    @property
    def aim(self) -> Array:
        """The part of the target that units are searched by."""
        return self.target[:, : self.searched]

    @property
    def view(self) -> View:
        """The units beside nothing else."""
        return View(self.units, self.goal[: self.width] @ self.aim)


class Aimed(NamedTuple):
    """A point's goal on the rows that are fitted: see :class:`~linjax.fold.engine.problem.Goal`.

    Attributes:
      mean: ``(n, m)``.
      cross: ``(n, w, m)``, shrunk as if the goal moved with the units.
      covariance: ``(n, m, m)``, likewise.
      own: whether it is the units themselves.
    """

    mean: Array
    cross: Array
    covariance: Array
    own: bool


class Data(NamedTuple):
    """A site's moments by point: those to fit on, shrunk, and those to measure on."""

    train: tuple[Frame, ...]
    test: tuple[Frame, ...]
    metrics: tuple[Array, ...]
    goals: tuple[Aimed, ...]


class Framed(NamedTuple):
    """A site's moments by distinct point, before they are shrunk.

    Attributes:
      points: the distinct points.
      merged: which of these each point is.
      whole: moments of all rows.
      train: of those to fit on.
      test: of those to measure on.
      noise: covariance of independent noise of the coordinates' own sizes.
      own: whether the goal is the units themselves.
    """

    points: tuple[Point, ...]
    merged: tuple[int, ...]
    whole: tuple[Frame, ...]
    train: tuple[Frame, ...]
    test: tuple[Frame, ...]
    noise: tuple[Array, ...]
    own: bool


def framed(site: Site, folds: tuple[list[int], list[int]] | None = None) -> Framed:
    """Returns a site's moments, which all weights of noise share.

    Args:
      site: the site.
      folds: folds of the rows to fit on and to measure on, all of them by default; if given,
        the goal is the units themselves.
    """
    points, index = distinct(site.points)
    whole = tuple(frame(point.moments) for point in points)
    train, test = whole, whole
    if folds is not None:
        train, test = (tuple(frame(p.moments, own) for p in points) for own in folds)
    spread = tuple(noise(site, own) for own in whole)
    return Framed(points, index, whole, train, test, spread, folds is not None)


def gathered(site: Site, ridge: float, own: Framed) -> Data:
    """Returns a site's moments at its distinct points, shrunk.

    Args:
      site: the site.
      ridge: weight of the noise that regressions are shrunk by; its size is that of all rows.
      own: its moments.
    """
    train, goals = [], []
    every = zip(own.points, own.whole, own.train, own.noise, strict=True)
    for point, seen, fitted, spread in every:
        added = ridge * spread
        train.append(fitted._replace(covariance=fitted.covariance + added))
        goal = point._replace(goal=None) if own.own else point
        goals.append(_aimed(site, goal, seen, train[-1], added))
    metrics = tuple(np.asarray(point.metric, np.float64) for point in own.points)
    return Data(tuple(train), own.test, metrics, tuple(goals))


def _aimed(site: Site, point: Point, seen: Frame, train: Frame, added: Array) -> Aimed:
    m = site.width
    if point.goal is None:
        covariance = train.covariance
        return Aimed(train.mean[:, :m], covariance[:, :, :m], covariance[:, :m, :m], True)
    whole, cross = goal_frame(point, seen)
    return Aimed(whole.mean, cross + added[:, :, :m], whole.covariance + added[:, :m, :m], False)


def sights(site: Site, data: Data, repeat: int, few: bool) -> list[Sight]:
    """Returns what each distinct point sees of a repeat.

    Args:
      site: the site.
      data: its moments.
      repeat: which repeat.
      few: whether directions of targets that hold almost no variance are mixed.
    """
    found = []
    for train, test, metrics, goal in zip(*data, strict=True):
        metric, wished = metrics[repeat], goal.covariance[repeat]
        target, searched = (mixed if few else whole)(wanted(wished, metric))
        found.append(
            Sight(
                site.width,
                train.covariance[repeat],
                test.covariance[repeat],
                train.mean[repeat],
                metric,
                target,
                searched,
                goal.cross[repeat],
                float(np.sum(wished * metric)),
                goal.own,
            )
        )
    return found


def needed(seen: list[Sight]) -> Array:
    """The units that say something, in ascending order: they vary, and something reads them.

    With all of them nothing is lost, whichever units a pursuit would take before them.
    """
    says = [(s.train + s.test).diagonal()[: s.width] * s.metric.any(axis=1) > 0 for s in seen]
    return np.flatnonzero(np.any(says, axis=0))


class Decoder(NamedTuple):
    """What straight coordinates are decoded by: covariances of the units, and with the goal."""

    units: Array
    goal: Array


def decoders(seen: list[Sight], alike: bool) -> tuple[list[Sight], list[Decoder]]:
    """Returns what points see of straight units, and what these are decoded by.

    Args:
      seen: a repeat as each point sees it.
      alike: whether one decoder serves all points. Then it goes by the sum of their covariances,
        each weighed by what errors cost there: units are scaled so that those cost alike.
    """
    if not alike or len(seen) == 1:
        return seen, [Decoder(sight.units, sight.goal) for sight in seen]
    found = []
    for sight in seen:
        spread = float(np.trace(sight.units))
        times = sight.size / spread if spread > 0 and sight.size > 0 else 1.0
        found.append(
            sight._replace(
                train=times * sight.train,
                test=times * sight.test,
                metric=sight.metric / times,
                target=sight.target / np.sqrt(times),
                goal=times * sight.goal,
            )
        )
    units, goal = (
        np.sum(own, axis=0) for own in ([s.units for s in found], [s.goal for s in found])
    )
    return found, [Decoder(units, goal)] * len(seen)


def reached(seen: list[Sight]) -> list[Sight]:
    """Returns what points see of a repeat with the sources along the directions they vary in.

    Where these are fewer than there are sources, all that is asked of sources takes less.
    """
    spread = np.sum([sight.sources for sight in seen], axis=0)
    basis = varying(spread, spread)
    if basis is None:
        return seen
    m = seen[0].width

    def along(moments: Array) -> Array:
        across = moments[:m, m:] @ basis
        own = basis.T @ moments[m:, m:] @ basis
        return np.block([[moments[:m, :m], across], [across.T, own]])

    return [
        sight._replace(
            train=along(sight.train),
            test=along(sight.test),
            mean=np.concatenate([sight.mean[:m], sight.mean[m:] @ basis]),
            goal=np.concatenate([sight.goal[:m], basis.T @ sight.goal[m:]]),
        )
        for sight in seen
    ]


def wanted(covariance: Array, metric: Array) -> Axes:
    """Returns the target's principal directions, the largest first."""
    values, basis = axes(factor(covariance), metric)
    return Axes(values, basis[:, : len(values)])


def whole(directions: Axes) -> tuple[Array, int]:
    """Directions in their size, as columns ``(m, q)``, and how many are searched."""
    return directions.basis * np.sqrt(directions.values), CHOSEN


def mixed(directions: Axes) -> tuple[Array, int]:
    """Directions that hold almost all variance, mixtures of the others, and how many are searched.

    With random signs the squared errors of mixtures are on average those of what they are made
    of: what hardly counts for the site may count for outputs that are a small difference of
    large branches.
    """
    values, (target, _) = directions.values, whole(directions)
    behind = values.sum() - np.cumsum(values)
    rank = int(np.searchsorted(-behind, -TARGET_SHARE * values.sum())) + 1
    rest = target[:, rank:]
    if rest.shape[1] > MIXED:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (rest.shape[1], MIXED))
        rest = rest @ signs / np.sqrt(MIXED)
    return np.concatenate([target[:, :rank], rest], axis=1), min(rank, SEARCHED)


def factor(covariance: Array) -> Array:
    """Returns L with ``L Lᵀ`` the covariance, the cheapest way; zero rows stay zero."""
    inverse = inverse_scale(covariance)
    scale = np.divide(1.0, inverse, out=np.zeros_like(inverse), where=inverse > 0)
    correlation = covariance * inverse[:, None] * inverse
    correlation[np.diag_indices_from(correlation)] = 1.0 + JITTER**1.5
    try:
        return scale[:, None] * np.linalg.cholesky(correlation)
    except np.linalg.LinAlgError:
        return root(covariance).root
