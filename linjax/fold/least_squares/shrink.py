"""Shrinkage towards a network whose units bend independently.

With few rows a regression must not believe every covariance that it sees. What it may believe
is the network: ``h = s z + r`` with z a known linear map of the features before it, s the
slope that fits best, and r what bends. Shrinkage adds independent noise to the inputs and to
every r, and lets it travel: always-on units (r = 0) stay exact linear maps, dead units stay
dead, and units that bend alike (duplicates, ``relu(z)`` and ``relu(−z)``) share their noise.
"""

import numpy as np

from linjax.fold.least_squares.features import Features, Frame
from linjax.graph.layers import Layers

Array = np.ndarray

STRAIGHT = 1e-9
"""Share of a unit's variance that may be rounding of a linear unit's."""
ALIKE = 1e-5
"""How far from one the correlation of two bends may be that count as the same."""


def noise(layers: Layers, pre: tuple[Features, ...], blocks: list[Array], data: Frame) -> Array:
    """Returns the covariance of ``a`` under noise of its own size, independent at its origin.

    Args:
      layers: the chain.
      pre: pre-activations z of its layers, as maps of ``a``.
      blocks: indices in ``a`` of the chain's input and of every site's units.
      data: moments of ``a``, whose variances the noise has.

    Returns:
      ``(D, D)``, positive semidefinite: ``T D Tᵀ``, D the variances of x and of all r, T the
      map from these to ``a``.
    """
    spread = np.zeros_like(data.covariance)
    inputs = blocks[0]
    spread[inputs, inputs] = np.diag(data.covariance)[inputs]
    for layer, z, units in zip(layers[:-1], pre, blocks[1:], strict=False):
        if not len(units):  # a layer that has vanished
            continue
        before = np.arange(units[0])
        if layer.mates:  # a product of several z has no slope
            slope, left = np.zeros(len(units)), data.covariance[np.ix_(units, units)]
        else:
            slope, left = _bent(data, z, Features(units))
            linear = z.dense * slope
            across = spread[np.ix_(before, z.rows)] @ linear
            spread[np.ix_(before, units)] = across
            spread[np.ix_(units, before)] = across.T
            spread[np.ix_(units, units)] = linear.T @ across[z.rows]
        spread[np.ix_(units, units)] += _shared(left, np.diag(data.covariance)[units])
    return spread


def _bent(data: Frame, z: Features, h: Features) -> tuple[Array, Array]:
    """Slopes s of units, and the covariance of what they leave, ``r = h − s z``."""
    zz, zh = data.within(z), data.between(z, h)
    variance = np.diag(zz)
    slope = np.divide(np.diag(zh), variance, out=np.zeros(len(zz)), where=variance > 0)
    crossed = slope[:, None] * zh
    left = data.within(h) - crossed - crossed.T + slope[:, None] * zz * slope
    return slope, left


def _shared(left: Array, variance: Array) -> Array:
    """Noise with the variances of bends, one source for all that bend alike."""
    own = np.diag(left)
    size = np.sqrt(np.where(own > STRAIGHT * variance, own, 0.0))
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    correlation = left * inverse[:, None] * inverse
    source = np.argmax(np.abs(correlation) > 1.0 - ALIKE, axis=1)
    loading = size * np.sign(correlation[np.arange(len(size)), source])
    return np.where(source[:, None] == source, np.outer(loading, loading), 0.0)
