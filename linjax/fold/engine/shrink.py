"""Shrinkage towards a network whose units bend independently.

With few rows a regression must not believe every covariance that it sees. What it may believe
is the network: ``h = s z + r`` with z a linear map of what the layer reads, s the slope that
fits best, and r what bends. Shrinkage adds independent noise to what the layer reads and to
every r: always-on units (r = 0) stay exact linear maps, dead units stay dead, and units that
bend alike (duplicates, ``relu(z)`` and ``relu(−z)``) share their noise.
"""

import numpy as np

from linjax.fold.engine.linalg import root
from linjax.fold.engine.problem import Frame, Site

Array = np.ndarray

STRAIGHT = 1e-9
"""Share of a unit's variance that may be rounding of a linear unit's."""
ALIKE = 1e-5
"""How far from one the correlation of two bends may be that count as the same."""


def noise(site: Site, data: Frame) -> Array:
    """Returns the covariance of a point's coordinates under noise of their own size.

    Args:
      site: the site.
      data: moments of the coordinates at one of its points, whose variances the noise has.

    Returns:
      ``(n, w, w)``, positive semidefinite; zero where nothing is fitted (aligned sites).
    """
    m, covariance = site.width, data.covariance
    if site.kind == "aligned":
        return np.zeros_like(covariance)
    if site.straight:
        return _straight(site, data)
    if not site.sources:
        return _shared(covariance, np.einsum("nii->ni", covariance))
    spread = np.zeros_like(covariance)
    z = covariance[:, m:, m:]
    within = _shared(z, np.einsum("nii->ni", z)) if site.noise is None else site.noise
    slope, left = _bent(covariance, m)
    own = np.einsum("nii->ni", covariance[:, :m, :m])
    spread[:, m:, m:] = within
    spread[:, m:, :m] = within * slope[:, None, :]
    spread[:, :m, m:] = spread[:, m:, :m].swapaxes(1, 2)
    spread[:, :m, :m] = slope[:, :, None] * spread[:, m:, :m] + _shared(left, own)
    return spread


def _straight(site: Site, data: Frame) -> Array:
    """Noise of straight coordinates, none in directions in which nothing ever moves."""
    if site.noise is not None:
        return site.noise
    shared = _shared(data.covariance, np.einsum("nii->ni", data.covariance))
    if data.samples <= site.width:  # directions without rows are not without movement
        return shared
    for i, covariance in enumerate(data.covariance):
        within = root(covariance)
        projection = within.root @ within.inverse.T
        shared[i] = projection @ shared[i] @ projection.T
    return shared


def _bent(covariance: Array, m: int) -> tuple[Array, Array]:
    """Slopes s of units, and the covariance of what they leave, ``r = h − s z``."""
    zz, zh = covariance[:, m:, m:], covariance[:, m:, :m]
    variance = np.einsum("nii->ni", zz)
    own = np.einsum("nii->ni", zh)
    slope = np.divide(own, variance, out=np.zeros_like(own), where=variance > 0)
    crossed = slope[:, :, None] * zh
    bend = slope[:, :, None] * zz * slope[:, None, :]
    return slope, covariance[:, :m, :m] - crossed - crossed.swapaxes(1, 2) + bend


def _shared(left: Array, variance: Array) -> Array:
    """Noise with the variances of bends, one source for all that bend alike: ``(n, m, m)``."""
    if not left.size:  # no units are left
        return left
    own = np.einsum("nii->ni", left)
    size = np.sqrt(np.where(own > STRAIGHT * variance, np.maximum(own, 0.0), 0.0))
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    correlation = left * inverse[:, :, None] * inverse[:, None, :]
    source = np.argmax(np.abs(correlation) > 1.0 - ALIKE, axis=2)
    sign = np.sign(np.take_along_axis(correlation, source[:, :, None], 2)[:, :, 0])
    loading = size * sign
    alike = source[:, :, None] == source[:, None, :]
    return np.where(alike, loading[:, :, None] * loading[:, None, :], 0.0)
