"""A site's choice made anew in a network that is folded up to it."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.dims.borders import padded
from linjax.dims.network import Network
from linjax.dims.reads import thinned
from linjax.dims.replay import Replay
from linjax.dims.sites import Site
from linjax.evidence.moments import lower_gram, mirrored
from linjax.evidence.points import at_point
from linjax.fold.engine.choose import Choice, choose
from linjax.fold.engine.problem import Frame, Goal, Moments, Point, in_fold, many_rows
from linjax.fold.engine.problem import Site as Problem
from linjax.fold.hasty import jit_hastily

Array = Any

SAMPLES = 1 << 16
"""Samples of a fold that moments are made of."""


def again(
    network: Network, site: Site, problem: Problem, points: Sequence[int], ridge: float,
    widths: tuple[int, int], now: Sequence[Replay], old: Sequence[Replay],
) -> Choice:  # fmt: skip
    """Returns what a site keeps as it is now, aiming at the original's.

    Where rows are few for so many coordinates, what is fitted to these alone may be far off on
    others: then it aims at what the site is now, if that comes nearer to the original's on rows
    held out. Coordinates that are kept need no fitting there.

    Args:
      network: the traced network.
      site: the site.
      problem: its problem in the original.
      points: by point of the site, which of the problem's it is.
      ridge: weight of the noise that regressions are shrunk by.
      widths: numbers of coordinates and of linear ones.
      now: the network folded up to the site, by fold of the rows; linear coordinates ride
        along if any are wanted.
      old: the original, likewise.
    """
    joint = [_moments(network, site, g, points, now, old) for g in range(len(problem.points))]
    m = problem.width
    w = joint[0].mean.shape[-1] - m
    seen = [
        Point(
            Moments(own.count, own.mean[..., :w], own.covariance[..., :w, :w]),
            point.metric,
            Goal(own.mean[..., w:], own.covariance[..., :w, w:], own.covariance[..., w:, w:]),
        )
        for own, point in zip(joint, problem.points, strict=True)
    ]
    # Noise that travels has directions without any; moments in single precision err in these.
    aimed = problem._replace(points=tuple(seen), sources=w > m, noise=None)
    if len(now) < 2 or problem.stream is not None or many_rows(aimed):
        return choose(aimed, *widths, ridge)
    itself = aimed._replace(points=tuple(point._replace(goal=None) for point in seen))
    errors = [_held_out(own, aimed, widths, ridge) for own in (aimed, itself)]
    return choose(aimed if errors[0] <= errors[1] else itself, *widths, ridge)


def _held_out(fitted: Problem, aimed: Problem, widths: tuple[int, int], ridge: float) -> float:
    """How far choices by one fold are from the original's in the others, summed over folds."""
    folds, total = range(len(aimed.points[0].moments.count)), 0.0
    for fold in folds:
        choice = choose(in_fold(fitted, fold), *widths, ridge)
        total += sum(_apart(choice, in_fold(aimed, own)) for own in folds if own != fold)
    return total


def _apart(choice: Choice, seen: Problem) -> float:
    """What errors of rebuilding goals from a choice cost in the rows of a fold."""
    total, mix = 0.0, choice.mix
    for point, decode, offset in zip(seen.points, choice.decode, choice.offset, strict=True):
        w, by, goal = mix.shape[1], mix @ decode, point.goal
        mean, covariance = point.moments.mean[0], point.moments.covariance[0]
        back = by.swapaxes(1, 2)
        off = goal.mean[0] - (back @ mean[:, :w, None])[..., 0] - offset
        cross = back @ goal.cross[0][:, :w]
        left = goal.covariance[0] - cross - cross.swapaxes(1, 2)
        left = left + back @ covariance[:, :w, :w] @ by
        left = left + off[:, :, None] * off[:, None, :]
        total += float(np.sum(point.metric * left))
    return total


def _moments(
    network: Network, site: Site, group: int, points: Sequence[int], now: Sequence[Replay],
    old: Sequence[Replay],
) -> Moments:  # fmt: skip
    """Moments of a site's coordinates now and in the original, at the points of a group."""
    found = []
    for new, before in zip(now, old, strict=True):
        parts = [
            _joint(network, site, point, new, before)
            for point, own in zip(site.points, points, strict=True)
            if own == group
        ]
        found.append(_pooled([_sums(x) for x, _ in parts], [share for _, share in parts]))
    return Moments(*(np.stack(x) for x in zip(*found, strict=True)))


def _pooled(parts: Sequence[Frame], shares: Sequence[float]) -> Frame:
    """Moments of all parts together, a share of the reads of each being zero."""
    if len(parts) == 1 and not shares[0]:
        return parts[0]
    count = sum(own.samples / (1.0 - share) for own, share in zip(parts, shares, strict=True))
    weights = [own.samples / count for own in parts]
    mean = np.sum([w * own.mean for w, own in zip(weights, parts, strict=True)], axis=0)
    second = np.zeros(parts[0].covariance.shape)
    for weight, own in zip(weights, parts, strict=True):
        second += weight * (own.covariance + own.mean[..., :, None] * own.mean[..., None, :])
    return Frame(count, mean, second - mean[..., :, None] * mean[..., None, :])


def _joint(
    network: Network, site: Site, point: int, new: Replay, before: Replay
) -> tuple[Array, float]:
    """Coordinates at a point, now and in the original, and which share of reads is padding."""
    makers = network.layout.makers
    readers = [r for r in site.readers if getattr(makers[r.op].inputs[r.data], "id", 0) == point]
    share = padded(network, site, point)
    parts = []
    for replay in (new, before):
        value = replay.operand(makers[readers[0].op], readers[0].data)
        parts.append(at_point(network, site, point, value, replay.sizes))
    both = jnp.concatenate(parts, axis=-1).astype(jnp.float32)
    return thinned(both, SAMPLES), share if share < 1 else 0.0


def _sums(x: Array) -> Frame:
    mean, gram = _centred(x)
    whole = mirrored(np.array(gram, np.float64))
    return Frame(float(x.shape[1]), np.asarray(mean, np.float64), whole)


@jit_hastily
def _centred(x: Array) -> tuple[Array, Array]:
    """Means, and the lower blocks of the covariance."""
    mean = jnp.mean(x, axis=1)
    return mean, lower_gram(x - mean[:, None]) / x.shape[1]
