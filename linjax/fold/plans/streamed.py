"""Streams that norms run over as problems: moments of what is normalised, before scales."""

import numpy as np

from linjax.dims.network import Network
from linjax.dims.norm_values import Norms, Read
from linjax.dims.sites import Site
from linjax.evidence.moments import PointMoments, about_zero
from linjax.fold.engine.problem import Moments, Point, Stream
from linjax.fold.engine.problem import Site as Problem
from linjax.program import pytree

Array = np.ndarray

FAINT = 1e-6
"""Share of a norm's largest scale below which what was normalised can't be told from its result."""
CENTRED = 1e-3
"""What coordinates that sum to zero may sum to, relative to what they could."""


def scale_of(network: Network, flat: pytree.Flat, read: Read, width: int) -> Array:
    """A norm's scale γ, in float64."""
    found = np.ones(width)
    for leaf in read.scales:
        found = found * np.asarray(flat[network.paths[leaf]]).astype(np.float64).reshape(-1)
    return found


def shift_of(network: Network, flat: pytree.Flat, read: Read, width: int) -> Array:
    """What is added behind a norm, β, in float64."""
    found = np.zeros(width)
    for leaf, weight in read.shifts:
        own = np.asarray(flat[network.paths[leaf]]).astype(np.float64)
        found = found + weight * own.reshape(-1)
    return found


def streamed(
    network: Network, flat: pytree.Flat, site: Site, norms: Norms, points: tuple[PointMoments, ...]
) -> Problem:
    """A stream's problem; it stays as it is where a norm's scale hides coordinates."""
    width = points[0].metric.shape[-1]
    scales = tuple(scale_of(network, flat, read, width) for read in norms.reads)
    shifts = [shift_of(network, flat, read, width) for read in norms.reads]
    pairs = zip(points, scales, shifts, strict=True)
    tied = [n for n, read in enumerate(norms.reads) if read.tied]
    hidden = any(np.abs(s).min() <= FAINT * np.abs(s).max() for s in scales)
    narrow = width < network.layout.traced[site.dim]
    if norms.centred and narrow and not _sums_to_zero(network, flat, site, norms):
        hidden = True  # trained since it was narrowed: what norms subtract is no mean any more
    return Problem(
        name=site.name,
        width=width,
        repeats=1,
        kind="normed",
        points=tuple(_normalised(own, scale, shift) for own, scale, shift in pairs),
        sources=False,
        least=width if hidden else 2 if norms.centred else 1,
        stream=Stream(
            scales, tuple(read.normed for read in norms.reads), tied[0] if tied else -1,
            norms.centred,
        ),
    )  # fmt: skip


def _sums_to_zero(network: Network, flat: pytree.Flat, site: Site, norms: Norms) -> bool:
    """Whether all that is added to a stream sums to zero over its coordinates."""
    apart = norms.beside | {r.leaf for r in site.readers} - {m.leaf for m in site.makers}
    for leaf, spans in enumerate(network.layout.leaves):
        at = next((n for n, s in enumerate(spans) if s.dim == site.dim), None)
        path = network.paths[leaf]
        for own in (path, network.extra(leaf, "bias"), network.extra(leaf, "linear")):
            if at is None or leaf in apart or own not in flat:
                continue
            axis = at if own != network.extra(leaf, "bias") else network.bias_axes(leaf).index(at)
            value = np.asarray(flat[own]).astype(np.float64)
            size = np.linalg.norm(value) * np.sqrt(value.shape[axis])
            if np.linalg.norm(value.sum(axis)) > CENTRED * size:
                return False
    return True


def _normalised(point: PointMoments, scale: Array, shift: Array) -> Point:
    """Moments of n about zero where ``γ n + β`` was seen."""
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    own = about_zero(
        point._replace(
            mean=(point.mean - shift) * inverse,
            scatter=point.scatter * inverse[:, None] * inverse,
        )
    )
    covariance = own.scatter / own.count[:, None, None, None]
    metric = point.metric * point.places * scale[:, None] * scale
    return Point(Moments(own.count, own.mean, covariance), metric)
