"""What a chain's widths cost in output error: the surfaces that budgets are spent by."""

from typing import NamedTuple

import numpy as np

from linjax.evidence.moments import Moments
from linjax.fold.engine.linalg import metric_root
from linjax.fold.least_squares.budget import CARRY, Link, Prices, Shape
from linjax.fold.least_squares.features import (
    Features,
    Frame,
    along,
    block_rows,
    entering,
    frame,
    onward,
)
from linjax.fold.least_squares.shrink import noise
from linjax.fold.least_squares.surface import (
    SiteProblem,
    leading,
    principal,
    site_surface,
)
from linjax.graph.layers import Layers

Array = np.ndarray

WANTED = 10
"""Rows per feature from which one held-out fold says enough, and shrinkage isn't compared."""
WANTED_WIDE = 2
WIDE = 2000
"""Features from which the smaller number has to do: pricing takes seconds there."""


class Problem(NamedTuple):
    """A chain to fold.

    Attributes:
      layers: its layers, in float64.
      moments: moments of its features, collected on these layers.
      single: whether its last layer is one affine map; several can't share a bottleneck.
      link: how it hangs together with other chains.
    """

    layers: Layers
    moments: Moments
    single: bool = True
    link: Link = Link()


class Anatomy(NamedTuple):
    """Features, pre-activations and units of a chain as linear maps of ``a``.

    Attributes:
      features: what each layer reads.
      pre: each layer's pre-activation z, without its bias.
      units: the activations behind all layers but the last.
    """

    features: tuple[Features, ...]
    pre: tuple[Features, ...]
    units: tuple[Features, ...]


def anatomy(problem: Problem) -> Anatomy:
    """Returns the linear maps that a chain's layers make of ``a``."""
    rows = block_rows(problem.moments)
    features = along(problem.layers, rows)
    pre = [
        entering(layer, v) @ np.asarray(layer.kernels, np.float64)
        for layer, v in zip(problem.layers, features, strict=True)
    ]
    return Anatomy(tuple(features), tuple(pre), tuple(map(Features, rows[1:])))


def shape_of(layers: Layers) -> Shape:
    """Returns the widths of a chain as it is."""
    return Shape(
        tuple(0 if layer.down is None else layer.kernel.shape[0] for layer in layers),
        tuple(layer.units for layer in layers),
        tuple(CARRY if layer.carry else layer.linears for layer in layers),
    )


def neck_curve(weighted: Features, vectors: Array, test: Frame) -> Array:
    """Returns the error of a weighted pre-activation behind bottlenecks of rank 0 … s.

    Directions come from other rows than the ones that it is measured on.
    """
    along_vectors = weighted @ vectors
    spread = test.between(weighted, along_vectors)
    variance = np.maximum(np.einsum("ij,ij->j", vectors, spread), 0.0)
    curve = variance.sum() - np.concatenate([[0.0], np.cumsum(variance)])
    return np.maximum(np.minimum.accumulate(curve), 0.0)


def many_rows(moments: Moments) -> bool:
    """Whether there are so many rows that no regression on all features overfits much."""
    features = moments.mean.shape[1]
    wanted = WANTED if features < WIDE else WANTED_WIDE
    return bool(np.sum(moments.count) >= wanted * features)


def shrunk(problem: Problem, ridge: float) -> Frame:
    """Returns the moments of all rows with so much noise of their own size added."""
    data = frame(problem.moments)
    return data._replace(covariance=data.covariance + ridge * spread(problem))


def spread(problem: Problem) -> Array:
    """Returns the covariance of ``a`` under noise of its own size: see :func:`noise`."""
    rows = block_rows(problem.moments)
    return noise(problem.layers, anatomy(problem).pre, rows, frame(problem.moments))


def halves(problem: Problem, added: Array) -> list[tuple[Frame, Frame]]:
    """Pairs of moments to fit on, shrunk, and to measure on: all of them if rows are few.

    Args:
      problem: the chain.
      added: covariance of the noise that regressions are shrunk by: :func:`spread`, weighted.
    """
    moments = problem.moments

    def fitted(folds: list[int]) -> Frame:
        data = frame(moments, folds)
        return data._replace(covariance=data.covariance + added)

    folds = [f for f, n in enumerate(moments.count) if n > 0]
    if len(folds) < 2:
        return [(fitted(folds),) * 2]
    held = folds[-1:] if many_rows(moments) else folds
    return [(fitted([f for f in folds if f != out]), frame(moments, [out])) for out in held]


def _one_price(problem: Problem, train: Frame, test: Frame) -> Prices:
    layers, moments = problem.layers, problem.moments
    parts = anatomy(problem)
    roots = [metric_root(g) for g in moments.sensitivity]
    weighted = [v @ onward(layers, i, roots) for i, v in enumerate(parts.features)]
    axes = [principal(train, t) for t in weighted]
    necks = [neck_curve(t, v, test) for t, (_, v) in zip(weighted, axes, strict=True)]
    targets = [t @ leading(*axis) for t, axis in zip(weighted, axes, strict=True)]
    problems = map(SiteProblem, parts.features[:-1], parts.units, targets[1:])
    sites = tuple(site_surface(p, train, test) for p in problems)
    output = float(necks[-1][0])
    if not problem.single:
        necks[-1] = np.zeros(1)
    # The kernels of a gated layer share no bottleneck.
    necks = [np.zeros(1) if x.mates else n for x, n in zip(layers, necks, strict=True)]
    if len(problem.link.trunks) > 1:  # nor do maps that are added
        necks[0] = np.zeros(1)
    kernels = tuple(1 + len(layer.mates) for layer in layers)
    start = shape_of(layers)
    return Prices(layers[0].reads, start, kernels, sites, tuple(necks), output, problem.link)


def prices(problem: Problem, added: Array) -> Prices:
    """Returns a chain's prices, measured on rows that nothing was fitted to."""
    all_prices = [_one_price(problem, train, test) for train, test in halves(problem, added)]
    first = all_prices[0]
    return first._replace(
        sites=tuple(_mean_surface(s) for s in zip(*(p.sites for p in all_prices), strict=True)),
        necks=tuple(np.mean(c, 0) for c in zip(*(p.necks for p in all_prices), strict=True)),
        output=float(np.mean([p.output for p in all_prices])),
    )


def _mean_surface(surfaces: tuple[Array, ...]) -> Array:
    """The mean of surfaces whose numbers of directions may differ by the rows."""
    columns = max(s.shape[1] for s in surfaces)
    wide = [np.pad(s, ((0, 0), (0, columns - s.shape[1])), mode="edge") for s in surfaces]
    return np.mean(wide, axis=0)
