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
from linjax.fold.engine.problem import Frame, Goal, Moments, Point
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
    made = problem._replace(points=tuple(seen), sources=w > m, noise=None)
    return choose(made, *widths, ridge)


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
