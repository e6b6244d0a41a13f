"""Chains of layers lumped: units that are multiples of one another, layer by layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from linjax.chains.layers import Layer, Layers, replaced
from linjax.chains.substitute import keep_units, substitute
from linjax.errors import LinjaxError
from linjax.fold.lossless.proportional import (
    multiples,
    rounding,
    storable,
    visible,
)
from linjax.fold.lossless.rewriting import in_float64, outgoing, with_outgoing
from linjax.program.precision import coarsest, lost

Array = Any


class LumpReport(NamedTuple):
    """What lumping did.

    Attributes:
      units: per site the number of units before.
      kept: per site the number of units after.
      error: ``(q,)`` how much each output of the chain can change, at most, for inputs of
        magnitude at most ``radius``; rounding apart. For networks of other layers one number,
        infinite with a tolerance.
    """

    units: tuple[int, ...]
    kept: tuple[int, ...]
    error: Array


def lump_layers(
    layers: Layers,
    slopes: Sequence[tuple[Any, Any] | None],
    tolerance: float = 0.0,
    *,
    radius: float = 1.0,
    dtype: Any = None,
    stored: Any = None,
) -> tuple[Layers, LumpReport]:
    """Lumps proportional units, layer by layer from the first to the last.

    Units without incoming weights are constant and move into the next bias.

    Args:
      layers: a chain; it is rewritten in float64.
      slopes: ``(negative, positive)`` per site, scalars or ``(k,)``; None where the
        activation is not positively homogeneous: such a site is left alone.
      tolerance: how far normalised weight vectors ``(w, b) / ‖w‖`` may be apart, in the
        Euclidean norm. Multiples rounded to ``dtype`` are joined in any case, see
        :func:`~linjax.fold.proportional.multiples`.
      radius: magnitude of the inputs for which the error is reported.
      dtype: what weights have been rounded to; that of the kernels by default.
      stored: what the new weights will be rounded to, None if they stay in float64: units
        whose joint weights can't be rounded without a visible change are left alone, see
        :func:`~linjax.fold.proportional.storable`.

    Returns:
      The new chain and a report.

    Raises:
      LinjaxError: for a negative tolerance.
    """
    at_least_zero(tolerance)
    if dtype is None:
        dtype = coarsest(layer.kernel.dtype for layer in layers)
    units = tuple(layer.units for layer in layers[:-1])
    layers = in_float64(layers)
    gains = _gains(layers, slopes)
    magnitude = np.full(layers[0].reads, float(radius))
    error = np.zeros(layers[-1].units)
    noise: Array | None = None
    for index, pair in enumerate(slopes):
        onward = None
        if layers[index].down is not None:
            magnitude = _reach(magnitude, np.abs(layers[index].down))
        if pair is not None:
            about = _Site(rounding(dtype), tolerance, stored, magnitude, noise)
            layers, drift, onward = _lump_site(layers, index, pair, about)
            moved = drift > 0
            error += drift[moved] @ gains[index][moved]
        magnitude, noise = _magnitude(layers[index], magnitude, pair), onward
    return layers, LumpReport(units, tuple(layer.units for layer in layers[:-1]), error)


def at_least_zero(tolerance: float) -> None:
    """Refuses a negative tolerance."""
    if not tolerance >= 0:
        raise LinjaxError(f"tolerance: expected a number at least 0, found {tolerance}")


def _lump_site(
    layers: Layers, index: int, slopes: tuple[Any, Any], about: "_Site"
) -> tuple[Layers, np.ndarray, Array]:
    """Lumps one site.

    Returns:
      The chain, how far each unit's stand-in may be from it, and how far the next layer's
      weights and bias may be off by rounding in float64, None if not at all.
    """
    layer = layers[index]
    layers, constant, shift = _without_constants(layers, index, slopes, about.stored)
    live = np.flatnonzero(~constant)
    drift = np.zeros(layer.units)
    if not len(live):
        return layers, drift, None
    pairs = np.stack([_per_unit(slope, layer) for slope in slopes])[:, live]
    _, kind = np.unique(pairs, axis=1, return_inverse=True)
    kernel, bias = layer.kernel[:, live], layer.bias[live]
    noise = None if about.noise is None else about.noise[:, live]
    leader, ratio = multiples(
        kernel, bias, kind.reshape(-1), about.relative, about.tolerance, noise
    )
    rows = outgoing(layers, index)
    own = rows[: len(live)]
    if about.stored is not None:
        fits = storable(own, _merged(own, leader, ratio), leader, kernel, bias, about.stored)
        alone = ~fits[leader]
        leader, ratio = np.where(alone, np.arange(len(live)), leader), np.where(alone, 1.0, ratio)
    gone = np.flatnonzero(leader != np.arange(len(live)))
    columns = np.concatenate([kernel, bias[None]])
    difference = np.abs(columns[:, gone] - ratio[gone] * columns[:, leader[gone]])
    steep = np.abs(pairs[:, gone]).max(axis=0)
    drift[live[gone]] = steep * _reach(np.append(about.magnitude, 1.0), difference)
    kept = np.delete(np.arange(len(live)), gone)
    merged = np.concatenate([_merged(own, leader, ratio)[kept], rows[len(live) :]])
    layers = replaced(layers, index, keep_units(layers[index], kept))
    layers = with_outgoing(layers, index, merged)
    return layers, drift, _noise(layers, index, own, leader, ratio, kept, shift)


class _Site(NamedTuple):
    """What lumping a site goes by: see :func:`lump_layers`; and greatest magnitudes it reads."""

    relative: float
    tolerance: float
    stored: Any
    magnitude: Array
    noise: Array | None


def _merged(rows: Array, leader: Array, ratio: Array) -> np.ndarray:
    """Sums the rows of each class, weighted by the ratios, in one pass over them."""
    place = leader, np.arange(len(leader))
    merge = scipy.sparse.csr_array((ratio, place), shape=(len(leader), len(leader)))
    return np.asarray(merge @ rows)


def _noise(
    layers: Layers, index: int, rows: Array, leader: Array, ratio: Array, kept: Array, shift: Array
) -> np.ndarray | None:
    """Bounds the rounding errors of sums that are the next layer's weights, and of its bias."""
    reader = layers[index + 1]
    if reader.down is not None or index + 2 == len(layers):
        return None
    noise = np.zeros((reader.kernel.shape[0] + 1, reader.units))
    if len(kept) < len(leader):
        noise[: len(kept)] = _merged(np.abs(rows), leader, ratio)[kept][:, : reader.units]
        alone = np.bincount(leader, minlength=len(leader))[kept] == 1
        noise[: len(kept)][alone] = 0.0
    noise[-1] = shift[: reader.units]
    return noise * (len(leader) + 8) * 2.0**-52


def _without_constants(
    layers: Layers, index: int, slopes: tuple[Any, Any], stored: Any
) -> tuple[Layers, np.ndarray, np.ndarray]:
    """Moves units that read nothing into the next bias, where that doesn't round visibly.

    Returns:
      The chain, which units they are, and magnitudes of what was added to the next bias.
    """
    layer, reader = layers[index], layers[index + 1]
    constant = ~layer.kernel.any(axis=0)
    below, above = (_per_unit(slope, layer) for slope in slopes)
    value = np.where(layer.bias < 0, below, above) * layer.bias
    moved = _substituted(layers, index, np.where(constant, value, 0.0))
    if stored is not None and not all(map(_settled, layers, moved, [stored] * len(layers))):
        constant &= value == 0
        moved = _substituted(layers, index, np.where(constant, value, 0.0))
    rows = outgoing(moved, index)
    shift = np.zeros(reader.units)
    if not constant.any():
        return layers, constant, shift
    if reader.down is None:
        added = np.abs(value[constant]) @ np.abs(rows[: layer.units][constant])
        shift = np.where(added[: reader.units], added[: reader.units] + np.abs(reader.bias), 0.0)
    rows = np.delete(rows, np.flatnonzero(constant), axis=0)
    moved = replaced(moved, index, keep_units(moved[index], ~constant))
    return with_outgoing(moved, index, rows), constant, shift


def _substituted(layers: Layers, index: int, value: Array) -> Layers:
    """Adds what constants contribute to the biases behind them."""
    offset = np.zeros(layers[index].features)
    offset[: layers[index].units] = value
    return substitute(layers, index + 1, lambda rows: rows, offset)


def _settled(before: Layer, after: Layer, stored: Any) -> bool:
    """Whether a new bias can be rounded to a dtype, by a share of what it stands beside."""
    error = lost(after.bias, stored)
    beside = np.linalg.norm(before.kernel, axis=0) + np.abs(before.bias)
    return bool((error <= visible(stored) * beside)[after.bias != before.bias].all())


def _gains(layers: Layers, slopes: Sequence[tuple[Any, Any] | None]) -> tuple[np.ndarray, ...]:
    """Per site ``(k, q)``: how much an error in a unit's activation can move each output."""
    gains: list[np.ndarray] = []
    onward = np.eye(layers[-1].units)  # by the features of the layer at hand
    for index in reversed(range(len(layers))):
        layer = layers[index]
        k, r = layer.units, layer.linears
        if index + 1 < len(layers):
            gains.insert(0, onward[:k])
            onward = np.concatenate([_steepness(slopes[index], layer)[:, None] * onward[:k],
                                     onward[k:]])  # fmt: skip
        through = np.abs(layer.kernel) @ onward[:k]
        if layer.linear is not None:
            through = through + np.abs(layer.linear) @ onward[k : k + r]
        if layer.residual:
            through = through + onward[k + r :]
        onward = through if layer.down is None else np.abs(layer.down) @ through
    return tuple(gains)


def _magnitude(layer: Layer, magnitude: Array, slopes: tuple[Any, Any] | None) -> np.ndarray:
    """Greatest magnitudes of a layer's features, given those of what it reads."""
    steep = _steepness(slopes, layer)
    parts = [steep * (_reach(magnitude, np.abs(layer.kernel)) + np.abs(layer.bias))]
    if layer.linear is not None:
        parts.append(_reach(magnitude, np.abs(layer.linear)))
    if layer.residual:
        parts.append(magnitude)
    return np.concatenate(parts)


def _reach(magnitude: Array, weights: Array) -> np.ndarray:
    """Returns ``magnitude @ weights``, where nothing times an unknown magnitude is nothing."""
    known = np.where(np.isfinite(magnitude), magnitude, 0.0) @ weights
    return np.where((weights[~np.isfinite(magnitude)] > 0).any(axis=0), np.inf, known)


def _steepness(slopes: tuple[Any, Any] | None, layer: Layer) -> np.ndarray:
    """Lipschitz constants of the units' activations; infinite where they are unknown."""
    if slopes is None:
        return np.full(layer.units, np.inf)
    return np.max([np.abs(_per_unit(slope, layer)) for slope in slopes], axis=0)


def _per_unit(slope: Any, layer: Layer) -> np.ndarray:
    """A site's slope for each unit that is left in the layer."""
    slope = np.asarray(slope, np.float64)
    return np.full(layer.units, slope) if slope.ndim == 0 else slope[layer.origin]
