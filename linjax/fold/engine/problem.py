"""What is folded: sites, the points that read them, and moments of their coordinates."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from linjax.errors import EvidenceError
from linjax.evidence.stored import steps

Array = np.ndarray
Kind = Literal["bent", "straight", "paired", "aligned", "normed"]

STILL = 1e-13
"""Variance relative to the squared mean that is the rounding of a constant in single precision."""
FAINT = 1e-24
"""Variance relative to the largest that counts as none: kernels that read it would be huge."""
WANTED = (10, 4000, 2)
"""Rows from which shrinkage isn't compared: so many per coordinate, or so many and so many per
coordinate, if that is less."""
RARE = 4000
"""Rows below which every fold is held out once: a unit that is on in one row of a hundred is off in
all rows of a small fold."""


class Moments(NamedTuple):
    """First and second moments of a site's coordinates at one point, by folds of the rows.

    Attributes:
      count: ``(F,)`` rows in each fold, or their weight.
      mean: ``(F, n, w)``, w being 2m with linear sources (``[h | z]``), else m.
      covariance: ``(F, n, w, w)``, centred within the fold.
    """

    count: Array  # type: ignore[assignment]  # tuples have a method of this name
    mean: Array
    covariance: Array


class Goal(NamedTuple):
    """What a point's readers should get, where it isn't the coordinates themselves.

    In a network of which a part is folded these are the original's: y.

    Attributes:
      mean: ``(F, n, m)`` of y.
      cross: ``(F, n, w, m)`` covariance of the coordinates with y, centred within the fold.
      covariance: ``(F, n, m, m)`` of y, likewise.
    """

    mean: Array
    cross: Array
    covariance: Array


class Point(NamedTuple):
    """A place where a site is read.

    Attributes:
      moments: of the coordinates there.
      metric: ``(n, m, m)`` Q: an error δ of the coordinates costs ``δ Q δᵀ`` at the outputs.
        The errors of all points add up.
      goal: what choices aim at, the coordinates themselves by default; surfaces don't know it.
    """

    moments: Moments
    metric: Array
    goal: Goal | None = None


class Stream(NamedTuple):
    """What stands between a stream and its readers; points are of normalised coordinates n.

    Attributes:
      scales: by point ``(m,)`` γ: what is read there is ``γ n + β``.
      normed: by point, whether a norm stands before it.
      tied: the point that a kernel reads which makes the coordinates, too; −1 where none does.
      centred: whether norms subtract the mean.
    """

    scales: tuple[Array, ...]
    normed: tuple[bool, ...]
    tied: int
    centred: bool


class Site(NamedTuple):
    """A dimension of a network that can be narrowed.

    Attributes:
      name: what messages call it.
      width: number of coordinates m.
      repeats: number of times n that it stands in the network; every repeat keeps its own
        coordinates, as many as the others.
      kind: "bent" where coordinates are chosen and their readers refitted, "straight" where
        any basis will do, "paired" where it will with one inverse for all points, "aligned"
        where coordinates are chosen and nothing can be refitted, "normed" where norms run over
        them, so that directions have to be orthonormal.
      points: where it is read.
      sources: whether the coordinates z without activation stand beside those with it, h.
      noise: ``(n, m, m)`` covariance of z under independent noise on what makes it, of the
        size of its variances; None for noise of z's own variances.
      least: fewest coordinates.
      multiple: widths are multiples of this, unless all are kept.
      stream: of a normed site, what it is read through.
    """

    name: str
    width: int
    repeats: int
    kind: Kind
    points: tuple[Point, ...]
    sources: bool
    noise: Array | None = None
    least: int = 0
    multiple: int = 1
    stream: Stream | None = None

    @property
    def straight(self) -> bool:
        """Whether any basis will do."""
        return self.kind in ("straight", "paired")

    @property
    def coordinates(self) -> int:
        """Number w of coordinates whose moments are needed."""
        return 2 * self.width if self.sources else self.width


T = TypeVar("T", Moments, Goal)


def of_fold(own: T, fold: int) -> T:
    """Moments, or a goal, by the rows of one fold alone."""
    return type(own)(*(x[fold : fold + 1] for x in own))


def in_fold(site: Site, fold: int) -> Site:
    """A site by the rows of one fold alone; points that share moments go on sharing them."""
    cut = {id(p.moments): of_fold(p.moments, fold) for p in site.points}
    points = (
        Point(cut[id(p.moments)], p.metric, p.goal and of_fold(p.goal, fold)) for p in site.points
    )
    return site._replace(points=tuple(points))


def runs(site: Site) -> list[slice]:
    """A site's repeats, so many at a time as are worked on at once."""
    each = 8 * sum(
        len(p.moments.count) * p.moments.mean.shape[-1] ** 2 + p.metric.shape[-1] ** 2
        for p in site.points
    )
    return steps(site.repeats, each)


def taken(site: Site, run: slice) -> Site:
    """Some repeats of a site; what is in files is read."""
    if run == slice(0, site.repeats):
        return site
    cut: dict[int, Any] = {}  # points that share moments go on sharing them
    for own in (x for p in site.points for x in (p.moments, p.goal) if x is not None):
        if isinstance(own, Moments):
            cut[id(own)] = Moments(own.count, own.mean[:, run], own.covariance[:, run])
        else:
            cut[id(own)] = Goal(*(x[:, run] for x in own))
    points = tuple(
        Point(cut[id(p.moments)], p.metric[run], None if p.goal is None else cut[id(p.goal)])
        for p in site.points
    )
    noise = None if site.noise is None else site.noise[run]
    return site._replace(repeats=run.stop - run.start, points=points, noise=noise)


class Frame(NamedTuple):
    """Moments of some rows: how many, ``(n, w)`` means and ``(n, w, w)`` covariances."""

    samples: float
    mean: Array
    covariance: Array


def frame(moments: Moments, folds: list[int] | None = None) -> Frame:
    """Returns the moments of the rows in some folds, all by default.

    Constants that vary by rounding alone don't vary, nor does what is all but zero.
    """
    chosen = list(range(len(moments.count)) if folds is None else folds)
    count = np.asarray(moments.count, np.float64)[chosen]
    means, shares = np.asarray(moments.mean, np.float64)[chosen], _shares(count)
    covariance = _pooled(shares, means, means, [moments.covariance[fold] for fold in chosen])
    mean, variance = np.tensordot(shares, means, 1), np.einsum("nii->ni", covariance)
    moves = variance > np.maximum(STILL * mean**2, FAINT * variance.max(initial=0.0))
    _still(covariance, moves, moves)
    return Frame(float(count.sum()), mean, (covariance + covariance.swapaxes(1, 2)) / 2)


def goal_frame(point: Point, seen: Frame) -> tuple[Frame, Array]:
    """Returns the moments of a point's goal, and its covariance with the coordinates, of all rows.

    Args:
      point: the point.
      seen: the moments of its coordinates.
    """
    count, goal = point.moments.count, point.goal
    own = frame(Moments(count, goal.mean, goal.covariance))
    shares = _shares(np.asarray(count, np.float64))
    cross = _pooled(shares, np.asarray(point.moments.mean), np.asarray(goal.mean), goal.cross)
    _still(cross, *(np.einsum("nii->ni", x.covariance) > 0 for x in (seen, own)))
    return own, cross


def _shares(count: Array) -> Array:
    return count / max(count.sum(), np.finfo(np.float64).tiny)


def _pooled(shares: Array, left: Array, right: Array, covariances: Iterable[Array]) -> Array:
    """Covariances of the rows of all folds, whose means may differ: ``(n, p, q)``."""
    apart = [x - np.tensordot(shares, x, 1) for x in (left, right)]
    pooled = np.zeros((*left.shape[1:], right.shape[2]))
    for share, a, b, own in zip(shares, *apart, covariances, strict=True):
        pooled += share * np.asarray(own, np.float64)
        pooled += share * a[:, :, None] * b[:, None, :]
    return pooled


def _still(covariance: Array, left: Array, right: Array) -> None:
    """What doesn't move doesn't go along with anything."""
    if not (left.all() and right.all()):
        covariance *= left[:, :, None] & right[:, None, :]


def samples(site: Site) -> float:
    """Returns the fewest rows that any point has seen."""
    return min((float(np.sum(point.moments.count)) for point in site.points), default=0.0)


def many_rows(site: Site) -> bool:
    """Whether there are so many rows that no regression on all coordinates overfits much."""
    each, some, more = WANTED
    wanted = min(each * site.coordinates, some + more * site.coordinates)
    return samples(site) >= wanted


def splits(site: Site) -> list[tuple[list[int], list[int]]]:
    """Returns pairs of folds to fit on and to measure on: one if rows are many, else all by turns.

    With a single fold both are the same.
    """
    counts = np.min([point.moments.count for point in site.points], axis=0)
    folds = [f for f, count in enumerate(counts) if count > 0]
    if len(folds) < 2:
        return [(folds, folds)]
    held = folds[-1:] if many_rows(site) and samples(site) >= RARE else folds
    return [([f for f in folds if f != out], [out]) for out in held]


def distinct(points: tuple[Point, ...]) -> tuple[tuple[Point, ...], tuple[int, ...]]:
    """Returns points with moments of their own, and which of these each point became.

    Metrics of points with the same moments and goal (the same objects) add up.
    """
    found: list[Point] = []
    index = []
    for point in points:
        same = [i for i, own in enumerate(found) if _alike(own, point)]
        if same:
            metric = found[same[0]].metric + point.metric
            found[same[0]] = point._replace(metric=metric)
        else:
            found.append(point)
        index.append(same[0] if same else len(found) - 1)
    return tuple(found), tuple(index)


def _alike(one: Point, other: Point) -> bool:
    return one.moments is other.moments and one.goal is other.goal


def checked(site: Site) -> Site:
    """Returns the site.

    Raises:
      EvidenceError: shapes don't fit, numbers aren't finite, or there are no rows.
    """
    n, m, w = site.repeats, site.width, site.coordinates
    if not site.points:
        raise EvidenceError(f"{site.name}: nothing reads it")
    if site.sources and site.kind != "bent":
        raise EvidenceError(f"{site.name}: a {site.kind} site has no linear sources")
    wanted: list[tuple[str, Array, tuple[int, ...]]]
    wanted = [("noise", site.noise, (n, m, m))] if site.noise is not None else []
    for i, point in enumerate(site.points):
        folds = len(point.moments.count)
        wanted += [
            (f"mean at point {i}", point.moments.mean, (folds, n, w)),
            (f"covariance at point {i}", point.moments.covariance, (folds, n, w, w)),
            (f"metric at point {i}", point.metric, (n, m, m)),
        ]
        if point.goal is not None:
            wanted += [
                (f"goal's mean at point {i}", point.goal.mean, (folds, n, m)),
                (f"goal's cross at point {i}", point.goal.cross, (folds, n, w, m)),
                (f"goal's covariance at point {i}", point.goal.covariance, (folds, n, m, m)),
            ]
    for what, array, shape in wanted:
        if np.shape(array) != shape:
            raise EvidenceError(f"{site.name}: the {what} has shape {np.shape(array)}, not {shape}")
        if not np.isfinite(array).all():
            raise EvidenceError(f"{site.name}: the {what} is not finite")
    if not splits(site)[0][0]:
        raise EvidenceError(f"{site.name}: no fold of the rows has rows at every point")
    return site
