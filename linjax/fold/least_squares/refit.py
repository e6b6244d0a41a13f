"""One layer at a time: choose its units, take their refitted kernel, factor it through few."""

from typing import NamedTuple

import numpy as np
import scipy

from linjax.fold.engine.linalg import solve
from linjax.fold.least_squares.features import Features, Frame
from linjax.fold.least_squares.split import Split, split
from linjax.graph.layers import Layer
from linjax.graph.substitute import keep_units

Array = np.ndarray

ROUNDING = 1e-12
"""Share of the largest variance that may be rounding: a unit below it is constant."""


class Stage(NamedTuple):
    """A layer about to be folded, given the folded features that it reads.

    Attributes:
      inputs: features v.
      kernel: ``(p, m)`` refitted kernel of all its units; a gated layer's side by side.
      bias: ``(m,)``, likewise.
      units: activations h of all its units, None for the last layer.
      target: the next pre-activation in the output metric; the last layer's own.
    """

    inputs: Features
    kernel: Array
    bias: Array
    units: Features | None
    target: Features


class Widths(NamedTuple):
    """What a layer is folded to: bottleneck's rank (0 without), units, linear units or CARRY."""

    neck: int
    units: int
    linears: int


def refit(data: Frame, v: Features, target: Features) -> tuple[Array, Array]:
    """Returns kernel and bias of the affine map of v nearest to a target."""
    kernel = solve(data.within(v), data.between(v, target))
    return kernel, data.mean_of(target) - data.mean_of(v) @ kernel


def fold_layer(data: Frame, stage: Stage, widths: Widths, layer: Layer) -> tuple[Layer, Array]:
    """Folds one layer to the given widths.

    Args:
      data: moments of everything that the stage names.
      stage: the layer and what stands around it.
      widths: what it is folded to.
      layer: the layer before folding, for the leaves that belong to its units.

    Returns:
      The folded layer and the indices of the units that it keeps.
    """
    v = stage.inputs
    if stage.units is None:
        kept, linear, carry = np.arange(stage.kernel.shape[1]), None, False
        wanted = solve(data.within(v), data.between(v, stage.target))
    else:
        choice = split(data, v, stage.units, stage.target, widths.units, widths.linears)
        kept, linear, carry = choice.kept, choice.linear, choice.linear is None
        linear = None if carry or not linear.shape[1] else linear
        wanted = _needs(data, stage, choice)
    whole = layer.with_kernels(stage.kernel, stage.bias)
    new = keep_units(whole, kept)._replace(linear=linear, carry=carry, down=None)
    if 0 < widths.neck < v.width:
        new = bottleneck(new, data, v, wanted, widths.neck)
    return new, kept


def _needs(data: Frame, stage: Stage, choice: Split) -> Array:
    """Returns what the outputs need of a layer's features, one column a direction: ``(p, ·)``.

    An error δ of the features reaches the target through the linear units and through every
    kept unit's slope. The slope's mean acts coherently, its variation unit by unit.
    """
    kernel = stage.kernel[:, choice.kept]
    z, h = stage.inputs @ kernel, stage.units.take(choice.kept)
    variance = np.diag(data.within(z))
    moves = variance > ROUNDING * variance.max(initial=0.0)
    inverse = np.divide(1.0, variance, out=np.zeros_like(variance), where=moves)
    slope = np.diag(data.between(z, h)) * inverse
    energy = np.maximum(np.diag(data.within(h)) * inverse - slope**2, 0.0)
    coherent = kernel @ (slope[:, None] * choice.reads_units) + choice.reads_inputs
    return np.concatenate(
        [coherent, kernel * np.sqrt(energy * np.sum(choice.reads_units**2, 1))], 1
    )


def bottleneck(layer: Layer, data: Frame, v: Features, wanted: Array, rank: int) -> Layer:
    """Factors a layer through a few directions of its features, by algebra alone.

    With M the wanted directions, C the features' covariance, V the top eigenvectors of
    ``Mᵀ C M`` and Λ their eigenvalues: ``down = M V Λ^{-1/2}``, and a kernel K becomes
    ``downᵀ C K``, the projection onto what passes. There is no regression on data that could
    overfit.

    Args:
      layer: a layer without a bottleneck.
      data: moments.
      v: its features.
      wanted: ``(p, ·)`` directions that count, scaled by how much they count.
      rank: number of directions that pass.

    Returns:
      The layer with a bottleneck, equal to the given one at the features' mean.
    """
    covariance = data.within(v)
    values, vectors = scipy.linalg.eigh(wanted.T @ covariance @ wanted, check_finite=False)
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
    solid = values > ROUNDING * max(values.max(initial=0.0), np.finfo(np.float64).tiny)
    down = wanted @ (vectors[:, solid] / np.sqrt(values[solid]))
    project = down.T @ covariance
    kernel = project @ layer.kernel
    return layer._replace(
        kernel=kernel,
        bias=layer.bias + data.mean_of(v) @ (layer.kernel - down @ kernel),
        linear=None if layer.linear is None else project @ layer.linear,
        down=down,
    )
