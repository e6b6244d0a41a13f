"""The normal form that certificates speak about: affine steps with two-slope units.

A :class:`~linjax.chains.layers.Layer` may hold a bottleneck, units, linear units and a
carried residual path. Here each becomes a column of one affine map or a map of its own,
without multiplying anything out, so that the steps compute the same function in real
arithmetic: linear units and carried features are units with slopes (1, 1), and a
bottleneck is a step of such units.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from linjax.chains.layers import Layer, Layers
from linjax.errors import EvidenceError

Array = Any
Slopes = tuple[Any, Any]


class Step(NamedTuple):
    """``z = v W + b`` and ``h = negative · min(z, 0) + positive · max(z, 0)``.

    Attributes:
      kernel: ``(p, w)`` float64.
      bias: ``(w,)`` float64.
      negative: ``(w,)`` slope of each unit below zero.
      positive: ``(w,)`` slope of each unit above zero.
    """

    kernel: Array
    bias: Array
    negative: Array
    positive: Array


class Steps(NamedTuple):
    """A chain's steps and where its sites are among them.

    Attributes:
      steps: all affine maps up to the last site, in order of evaluation.
      sites: for each site the index of its step.
      units: for each site the number of its units: the step's first columns.
    """

    steps: tuple[Step, ...]
    sites: tuple[int, ...]
    units: tuple[int, ...]


def steps_of(layers: Layers, slopes: Sequence[Slopes]) -> Steps:
    """Returns the steps of a chain, whose last layer is the affine head.

    Args:
      layers: the chain; all layers but the last are followed by a site.
      slopes: ``(negative, positive)`` per site, scalars or one entry a unit.

    Raises:
      EvidenceError: if shapes do not fit, a number is not finite, or slopes are missing.
    """
    if len(slopes) != len(layers) - 1:
        raise EvidenceError(
            f"slopes: expected a pair for each of {len(layers) - 1} sites, found {len(slopes)}"
        )
    steps, sites, units = [], [], []
    reads = layers[0].reads
    for i, (layer, pair) in enumerate(zip(layers[:-1], slopes, strict=True)):
        where = f"layer {i}"
        if layer.reads != reads:
            raise EvidenceError(f"{where} reads {layer.reads} features, but {reads} arrive")
        if layer.down is not None:
            steps.append(_linear_step(_real(layer.down, f"{where}, bottleneck")))
        sites.append(len(steps))
        units.append(layer.units)
        steps.append(_step(layer, pair, where))
        reads = layer.features
    return Steps(tuple(steps), tuple(sites), tuple(units))


def _linear_step(kernel: np.ndarray) -> Step:
    width = kernel.shape[1]
    return Step(kernel, np.zeros(width), np.ones(width), np.ones(width))


def _step(layer: Layer, slopes: Slopes, where: str) -> Step:
    kernel = _real(layer.kernel, f"{where}, kernel")
    bias = _real(layer.bias, f"{where}, bias")
    if bias.shape != kernel.shape[1:]:
        raise EvidenceError(f"{where}: bias {bias.shape} does not fit kernel {kernel.shape}")
    columns = [kernel]
    if layer.linear is not None:
        columns.append(_real(layer.linear, f"{where}, linear units"))
    if layer.residual:
        columns.append(np.eye(kernel.shape[0]))
    extra = layer.features - layer.units
    negative, positive = (
        np.broadcast_to(_real(slope, f"{where}, slopes"), (layer.units,)) for slope in slopes
    )
    return Step(
        np.concatenate(columns, axis=1),
        np.concatenate([bias, np.zeros(extra)]),
        np.concatenate([negative, np.ones(extra)]),
        np.concatenate([positive, np.ones(extra)]),
    )


def _real(array: Array, where: str) -> np.ndarray:
    """As float64, which holds every narrower float exactly; refuses what is not finite."""
    array = np.asarray(array).astype(np.float64)
    if not np.all(np.isfinite(array)):
        raise EvidenceError(f"{where}: expected finite numbers")
    return array
