"""Which coordinates a site keeps, what stays linear beside them, and how the rest is rebuilt."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linjax.fold.engine.basis import elimination, straight_basis
from linjax.fold.engine.directions import Left, varying_directions
from linjax.fold.engine.exchange import exchanged
from linjax.fold.engine.linalg import JITTER, ROUNDING, floored, solve, symmetric
from linjax.fold.engine.problem import Site, Stream, checked, runs, taken
from linjax.fold.engine.pursuit import View
from linjax.fold.engine.sharing import at_once
from linjax.fold.engine.sight import (
    Data,
    Decoder,
    Sight,
    decoders,
    framed,
    gathered,
    needed,
    sights,
)
from linjax.fold.engine.surface import held_out
from linjax.fold.engine.turned import turned

Array = np.ndarray


class Choice(NamedTuple):
    """A fold of a site: features ``f = [h_kept, z @ linear]``, or ``f = h @ basis``.

    Attributes:
      kept: ``(n, k)`` indices of the coordinates that are kept, ascending.
      linear: ``(n, m, r)`` kernel of the linear ones.
      basis: ``(n, m, k)`` of a straight site, else None.
      decode: by point ``(n, k + r, m)`` R; a reader's kernel W becomes ``R W``.
      offset: by point ``(n, m)`` c, with ``h ≈ f R + c``.
      error: squared error on the rows that were fitted, summed over points and repeats.
    """

    kept: Array
    linear: Array
    basis: Array | None
    decode: tuple[Array, ...]
    offset: tuple[Array, ...]
    error: float

    @property
    def mix(self) -> Array:
        """What features are of coordinates, ``f = h mix``, or ``[h | z] mix`` with linear ones."""
        if self.basis is not None:
            return self.basis
        (n, m, r), k = self.linear.shape, self.kept.shape[-1]
        mix = np.zeros((n, 2 * m if r else m, k + r))
        np.put_along_axis(mix[:, :, :k], self.kept[:, None, :], 1.0, axis=1)
        if r:
            mix[:, m:, k:] = self.linear
        return mix

    def changes(self, width: int) -> bool:
        """Whether a site of so many coordinates becomes something else."""
        return self.kept.shape[-1] < width or self.linear.shape[-1] > 0

    def by_site(self, points: Sequence[int]) -> "Choice":
        """The choice by points of the network's site; several may be one of the problem's."""
        decode, offset = (tuple(own[p] for p in points) for own in (self.decode, self.offset))
        return self._replace(decode=decode, offset=offset)

    def by_problem(self, points: Sequence[int]) -> "Choice":
        """The choice by points of the problem again; inverse to :meth:`by_site`."""
        first = [points.index(group) for group in sorted(set(points))]
        decode, offset = (tuple(own[p] for p in first) for own in (self.decode, self.offset))
        return self._replace(decode=decode, offset=offset)


class _Part(NamedTuple):
    """The fold of one repeat; decode and offset by distinct point."""

    kept: Array
    linear: Array
    basis: Array | None
    decode: list[Array]
    offset: list[Array]
    error: float


def choose(site: Site, k: int, r: int, ridge: float) -> Choice:
    """Chooses k coordinates and r linear ones that together say most to a site's readers.

    Args:
      site: the site.
      k: number of coordinates.
      r: number of linear ones, 0 without linear sources.
      ridge: weight of the noise that regressions are shrunk by.

    Raises:
      EvidenceError: the site's numbers don't fit, or aren't finite.
      ValueError: there aren't so many coordinates.
    """
    if not 0 <= k <= site.width or not 0 <= r <= (site.width if site.sources else 0):
        raise ValueError(f"{site.name}: no {k} coordinates and {r} linear ones of {site.width}")
    if k == site.width and all(p.goal is None or site.kind == "aligned" for p in site.points):
        return whole(site, r)
    if site.stream is not None:
        return _turned(site, site.stream, k, ridge)

    def chosen(run: slice) -> tuple[list[_Part], tuple[int, ...]]:
        part = checked(taken(site, run))
        own = framed(part)
        data = gathered(part, ridge, own)
        return [_part(part, data, i, k, r) for i in range(part.repeats)], own.merged

    every = runs(site)
    costs = [float((run.stop - run.start) * site.coordinates**3) for run in every]
    found = at_once(chosen, every, costs)
    return _assembled([part for parts, _ in found for part in parts], found[0][1])


def keeping(site: Site, kept: Array, ridge: float, refit: bool = True) -> Choice:
    """Keeps given coordinates; the others are rebuilt from these, or counted as zero.

    Args:
      site: the site.
      kept: ``(n, k)`` indices, ascending.
      ridge: weight of the noise that regressions are shrunk by.
      refit: whether to rebuild.
    """
    checked(site)
    if refit and site.kind not in ("aligned", "normed"):
        own = framed(site)
        data = gathered(site, ridge, own)
        parts = []
        for i in range(site.repeats):
            seen = sights(site, data, i, few=False)
            part = _finished(seen, kept[i], np.zeros((len(seen[0].sources), 0)))
            pairs = zip(part.offset, (goal.mean[i] for goal in data.goals), strict=True)
            parts.append(part._replace(offset=[at + mean for at, mean in pairs], basis=None))
        return _assembled(parts, own.merged)
    return alike(kept, taking(kept, site.width), len(site.points))


def taking(kept: Array, width: int) -> Array:
    """Returns the decoder that counts coordinates which aren't kept as zero: ``(n, k, m)``."""
    return np.stack([np.eye(width)[own] for own in kept])


def alike(kept: Array, decode: Array, points: int, basis: Array | None = None) -> Choice:
    """Returns a choice without linear coordinates or offsets, decoded alike at all points."""
    n, _, m = decode.shape
    linear, nothing = np.zeros((n, m, 0)), np.zeros((n, m))
    return Choice(kept, linear, basis, (decode,) * points, (nothing,) * points, 0.0)


def _assembled(parts: list[_Part], index: tuple[int, ...]) -> Choice:
    """The fold of all repeats."""
    return Choice(
        np.stack([part.kept for part in parts]),
        np.stack([part.linear for part in parts]),
        None if parts[0].basis is None else np.stack([part.basis for part in parts]),
        tuple(np.stack([part.decode[i] for part in parts]) for i in index),
        tuple(np.stack([part.offset[i] for part in parts]) for i in index),
        sum(part.error for part in parts),
    )


def whole(site: Site, r: int) -> Choice:
    """The site as it is; linear coordinates beside it say nothing."""
    n, m = site.repeats, site.width
    decode = np.broadcast_to(np.eye(m + r, m), (n, m + r, m))
    points = len(site.points)
    basis = decode if site.straight else None
    kept = np.tile(np.arange(m), (n, 1))
    offsets = (np.zeros((n, m)),) * points
    return Choice(kept, np.zeros((n, m, r)), basis, (decode,) * points, offsets, 0.0)


def _turned(site: Site, stream: Stream, k: int, ridge: float) -> Choice:
    """A stream that norms run over, in fewer coordinates."""
    found = turned(stream, site.points, k, ridge)
    nothing = (np.zeros((1, site.width)),) * len(site.points)
    decode = tuple(own[None] for own in found.decode)
    empty = np.zeros((1, site.width, 0))
    return Choice(np.arange(k)[None], empty, found.basis[None], decode, nothing, found.error)


def _part(site: Site, data: Data, repeat: int, k: int, r: int) -> _Part:
    if site.kind == "aligned":
        return _aligned(site, data, repeat, k)
    seen = sights(site, data, repeat, few=False)
    if site.straight:
        part = _straight(*decoders(seen, site.kind == "paired"), k)
    else:
        part = _bent(seen, k, r)
    means = [goal.mean[repeat] for goal in data.goals]
    offset = [own + mean for own, mean in zip(part.offset, means, strict=True)]
    return part._replace(offset=offset)


def _aligned(site: Site, data: Data, repeat: int, k: int) -> _Part:
    """Coordinates alone: the others are dropped, and nothing makes up for them."""
    m = site.width
    loss = np.zeros((m, m))
    for own, metric in zip(data.train, data.metrics, strict=True):
        mean = own.mean[repeat]
        loss += metric[repeat] * (own.covariance[repeat] + np.outer(mean, mean))
    order = elimination(symmetric(loss))
    dropped, kept = order[: m - k], np.sort(order[m - k :])
    decode = np.eye(m)[kept]
    points = len(data.train)
    error = float(loss[np.ix_(dropped, dropped)].sum())
    return _Part(kept, np.zeros((m, 0)), None, [decode] * points, [np.zeros(m)] * points, error)


def _straight(seen: list[Sight], by: list[Decoder], k: int) -> _Part:
    """The best basis; directions that say nothing are zero."""
    m = seen[0].width
    found = straight_basis(seen)[:, :k] if k < m else np.eye(m)
    basis = np.zeros((m, k))
    basis[:, : found.shape[1]] = found
    alike = len(by) > 1 and by[0] is by[-1]
    if alike and k < m:
        basis[:, _best(seen, by, basis) :] = 0.0
    decode, offset, error = [], [], 0.0
    for sight, own in zip(seen, by, strict=True):
        cross = basis.T @ own.goal
        uncorrelated = symmetric(basis.T @ own.units @ basis)
        # What varies at another point alone: rounding here, which would be blown up.
        spread = np.abs(basis).T @ np.sqrt(np.maximum(own.units.diagonal(), 0.0))
        still = uncorrelated.diagonal() <= ROUNDING * spread**2
        uncorrelated[still], uncorrelated[:, still], cross[still] = 0.0, 0.0, 0.0
        coefficients = solve(uncorrelated, cross, JITTER)
        decode.append(coefficients)
        offset.append(-(sight.mean @ basis) @ coefficients)
        error += _apart(sight, basis, coefficients)
    return _Part(np.arange(k), np.zeros((m, 0)), basis, decode, offset, error)


def _best(seen: list[Sight], by: list[Decoder], basis: Array) -> int:
    """With how many directions least is lost, where one decoder serves points that are unlike."""
    errors = np.zeros(basis.shape[1] + 1)
    for sight, own in zip(seen, by, strict=True):
        made, cross = (basis.T @ x @ sight.target for x in (own.units, sight.goal))
        errors += held_out(made, cross, basis.T @ sight.units @ basis, sight.size)
    return int(np.argmin(errors))


def _apart(sight: Sight, basis: Array, coefficients: Array) -> float:
    """The part of the target's variance that any decoder leaves."""
    made = coefficients @ sight.target
    explained = 2.0 * np.sum(made * (basis.T @ sight.goal @ sight.target))
    return max(sight.size - explained + np.sum(made * (basis.T @ sight.units @ basis @ made)), 0.0)


def _left(sight: Sight, coefficients: Array, cross: Array) -> float:
    """The part of the target's variance that a regression leaves."""
    explained = float(np.sum((coefficients @ sight.target) * (cross @ sight.target)))
    return max(sight.size - explained, 0.0)


def _bent(seen: list[Sight], k: int, r: int) -> _Part:
    """Units and linear units.

    The two choices depend on each other: units are pursued beside no and beside all directions
    of the sources, directions are found given the units, and the better of both is taken.
    """
    sources = len(seen[0].sources)
    ways = [False, True] if r and k else [False]
    spread = np.sum([sight.sources for sight in seen], axis=0)

    def made(beside: bool) -> _Part:
        kept = _pursued(seen, beside, k)
        linear = np.zeros((sources, r))
        if r:
            found = varying_directions([_given(sight, kept) for sight in seen], spread, r).kernel
            linear[:, : found.shape[1]] = found
        return _finished(seen, kept, linear)

    choices = at_once(made, ways, [float(len(seen) * seen[0].width ** 3)] * len(ways))
    return min(choices, key=lambda choice: choice.error)


def _pursued(seen: list[Sight], beside: bool, k: int) -> Array:
    """The k units that explain most of the targets, beside the sources or without them.

    Where fewer say anything, others of the largest variance fill up the number.
    """
    live = needed(seen)
    if len(live) <= k and all(sight.own for sight in seen):
        order = live
    else:
        order = exchanged([_beside(sight) if beside else sight.view for sight in seen], k)
    if len(order) < k:
        rest = np.setdiff1d(np.arange(seen[0].width), order)
        variance = sum(np.diag(sight.units)[rest] for sight in seen)
        order = np.concatenate(
            [order, rest[np.argsort(-variance, kind="stable")][: k - len(order)]]
        )
    return np.sort(order)


def _beside(sight: Sight) -> View:
    """The units as they are beside all sources."""
    m, aim, across = sight.width, sight.aim, sight.across
    wanted = np.concatenate([across.T, sight.goal[m:] @ aim], axis=1)
    through = solve(sight.sources, wanted)
    left = sight.units - across @ through[:, :m]
    cross = sight.goal[:m] @ aim - across @ through[:, m:]
    return View(symmetric(left), cross, np.diag(sight.units))


def _given(sight: Sight, kept: Array) -> Left:
    """Covariances of the sources, and of these with the target, given the kept units."""
    m, across, goal = sight.width, sight.across, sight.goal @ sight.target
    if not len(kept):
        return Left(sight.sources, goal[m:])
    wanted = np.concatenate([across[kept], goal[kept]], axis=1)
    through = solve(sight.units[np.ix_(kept, kept)], wanted)
    left = sight.sources - across[kept].T @ through[:, :m]
    cross = goal[m:] - across[kept].T @ through[:, m:]
    return Left(floored(left, sight.sources), cross)


def _finished(seen: list[Sight], kept: Array, linear: Array) -> _Part:
    """The coefficients and the error of a choice of units and directions."""
    m, k = seen[0].width, len(kept)
    decode, offset, error = [], [], 0.0
    for sight in seen:
        beside = sight.across[kept] @ linear
        own = symmetric(linear.T @ sight.sources @ linear)
        covariance = np.block([[sight.units[np.ix_(kept, kept)], beside], [beside.T, own]])
        cross = np.concatenate([sight.goal[kept], linear.T @ sight.goal[m:]])
        coefficients = solve(covariance, cross)
        if sight.own:  # kept units are what they are, exactly
            coefficients[:, kept] = 0.0
            coefficients[np.arange(k), kept] = 1.0
        features = np.concatenate([sight.mean[kept], sight.mean[m:] @ linear])
        shift = -features @ coefficients
        shift[kept] = -sight.mean[kept] if sight.own else shift[kept]
        decode.append(coefficients)
        offset.append(shift)
        error += _left(sight, coefficients, cross)
    linear = linear if len(linear) else np.zeros((m, 0))
    return _Part(kept, linear, None, decode, offset, error)
