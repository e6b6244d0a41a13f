"""Proportional lumping: units that are multiples of one another become one, on all inputs.

For a positively homogeneous activation, σ(ρ z) = ρ σ(z) for ρ > 0, units whose incoming
weights and bias are proportional compute proportional activations: one of them can stand
for all, its outgoing weights being the weighted sum (Ressi, Romanello, Piazza & Rossi,
Neural network reduction by proportional lumping, 2022). Going from the first layer to the
last finds the coarsest such partition, in time linear in the number of weights.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from linjax.errors import EvidenceError, FoldWarning, LinjaxError
from linjax.evidence.bounds import Bounds, fingerprint
from linjax.fold.exact import exact_rewrite
from linjax.fold.fold import transform
from linjax.fold.rewriting import in_float64, outgoing, with_outgoing
from linjax.graph import pytree
from linjax.graph.count import count
from linjax.graph.layers import Layer, Layers, replaced
from linjax.graph.net import Net
from linjax.graph.structure import Chain
from linjax.graph.substitute import keep_units, substitute

Array = Any


class LumpReport(NamedTuple):
    """What lumping did.

    Attributes:
      units: per site the number of units before.
      kept: per site the number of units after.
      error: ``(q,)`` how much each output of the chain can change, at most, for inputs of
        magnitude at most ``radius``; rounding apart.
    """

    units: tuple[int, ...]
    kept: tuple[int, ...]
    error: Array


class Classes(NamedTuple):
    """A partition of the columns of a matrix into proportional ones.

    Attributes:
      leader: ``(m,)`` int, each column's representative; the column itself if it is one.
      ratio: ``(m,)`` float64 ρ > 0, with ``column ≈ ρ · column[leader]``.
    """

    leader: Array
    ratio: Array


def lump(
    net: Net,
    params: Any,
    tolerance: float = 0.0,
    *,
    bounds: Bounds | None = None,
    radius: float = 1.0,
    details: bool = False,
) -> Any:
    """Joins units whose incoming weights are proportional: exact on all inputs, data-free.

    If ``(W[:, t], b_t) = ρ (W[:, v], b_v)``, ρ > 0, and σ is positively homogeneous (ReLU, leaky
    ReLU, PReLU), then ``σ(z_t) = ρ σ(z_v)``: unit t goes, and ρ times its outgoing weights are
    added to those of v. Layers are lumped from the first to the last, which finds the
    coarsest partition, channels of convolutions before dense layers. Units without incoming
    weights move into the next bias.

    Args:
      net: the traced network.
      params: its parameters, original or folded, in any floating dtype.
      tolerance: how far normalised weight vectors ``(w, b)`` may be apart, in the
        Euclidean norm; zero allows for the rounding of their dtype only.
      bounds: if given, units that are linear combinations of others, all of proven sign,
        are rewritten by these first: exact on the bounds' box only.
      radius: magnitude of the chains' inputs for which the error is reported.
      details: whether to return a tuple of :class:`LumpReport`, one a chain, too.

    Returns:
      A nested dict of arrays, for ``net.apply``; or ``params`` itself, with a
      :class:`FoldWarning`, where no units are proportional.

    Raises:
      StructureError: if params doesn't fit the network, naming the path.
      EvidenceError: if the bounds are of other parameters.
      LinjaxError: for a negative tolerance.

    References:
      Ressi, Romanello, Piazza and Rossi, Neural network reduction by proportional
      lumping, 2022.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> from linjax.fold.lump import lump
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.array([[1.0, 3.0, -1.0]]), "out": jnp.ones((3, 2))}
      >>> net = linjax.trace(apply, params, jnp.ones((1, 1)))
      >>> lump(net, params)["out"].tolist()
      [[4.0, 4.0], [1.0, 1.0]]
    """
    if bounds is not None and bounds.fingerprint != fingerprint(params):
        raise EvidenceError("the bounds were proven for other values of these parameters")
    leaves = [leaf for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) >= 2]
    rounding = max(4 * float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
    combine = None if bounds is None else exact_rewrite(bounds, ("dependent",))
    reports: list[LumpReport] = []

    def rewrite(chain: Chain, layers: Layers) -> Layers:
        slopes = [layer.slopes for layer in layers[: len(chain.sites)]]
        units = tuple(layer.units for layer in layers[: len(chain.sites)])
        layers = layers if combine is None else combine(chain, layers)
        lumped, report = lump_layers(layers, slopes, max(tolerance, rounding), radius=radius)
        reports.append(report._replace(units=units))
        return lumped

    _at_least_zero(tolerance)
    before = count(params)
    lumped, _ = transform(params, net.graph, rewrite)
    if count(lumped) >= before:
        warnings.warn("nothing was lumped: no units are proportional", FoldWarning, stacklevel=2)
        lumped = params
    return (lumped, tuple(reports)) if details else lumped


def lump_layers(
    layers: Layers,
    slopes: Sequence[tuple[Any, Any] | None],
    tolerance: float = 0.0,
    *,
    radius: float = 1.0,
) -> tuple[Layers, LumpReport]:
    """Lumps proportional units, layer by layer from the first to the last.

    Units without incoming weights are constant and move into the next bias.

    Args:
      layers: a chain; it is rewritten in float64.
      slopes: ``(negative, positive)`` per site, scalars or ``(k,)``; None where the
        activation is not positively homogeneous: such a site is left alone.
      tolerance: how far normalised weight vectors ``(w, b)`` may be apart, in the
        Euclidean norm. Rounding of the kernels' dtype, four times its epsilon, is always
        allowed.
      radius: magnitude of the inputs for which the error is reported.

    Returns:
      The new chain and a report.

    Raises:
      LinjaxError: for a negative tolerance.
    """
    _at_least_zero(tolerance)
    rounding = max(float(jnp.finfo(layer.kernel.dtype).eps) for layer in layers)
    tolerance = max(tolerance, 4 * rounding)
    units = tuple(layer.units for layer in layers[:-1])
    layers = in_float64(layers)
    gains = _gains(layers, slopes)
    magnitude = np.full(layers[0].reads, float(radius))
    error = np.zeros(layers[-1].units)
    for index, pair in enumerate(slopes):
        if layers[index].down is not None:
            magnitude = _reach(magnitude, np.abs(layers[index].down))
        if pair is not None:
            layers, drift = _lump_site(layers, index, pair, tolerance, magnitude)
            moved = drift > 0
            error += drift[moved] @ gains[index][moved]
        magnitude = _magnitude(layers[index], magnitude, pair)
    return layers, LumpReport(units, tuple(layer.units for layer in layers[:-1]), error)


def _at_least_zero(tolerance: float) -> None:
    if not tolerance >= 0:
        raise LinjaxError(f"tolerance: expected a number at least 0, found {tolerance}")


def proportional_classes(columns: Array, kind: Array, tolerance: float) -> Classes:
    """Partitions columns by direction.

    Normalised columns are sorted by their inner product with a fixed random vector: equal
    ones end up side by side, and only neighbours are compared. Linear in the number of
    entries as long as the tolerance does not join columns that turn out to differ.

    Args:
      columns: ``(p, m)`` without zero columns.
      kind: ``(m,)`` integers; only columns of one kind are ever joined.
      tolerance: greatest Euclidean distance of normalised columns.
    """
    count = columns.shape[1]
    norm = np.linalg.norm(columns, axis=0)
    unit = columns / norm
    probe = np.random.default_rng(0).normal(size=len(columns))
    key = probe @ unit
    order = np.lexsort((key, kind))
    apart = np.diff(key[order]) > np.linalg.norm(probe) * tolerance
    run = np.zeros(count, int)
    run[order[1:]] = np.cumsum(apart | (np.diff(kind[order]) != 0))
    leader, left = np.full(count, -1), np.arange(count)
    while len(left):
        _, first, place = np.unique(run[left], return_index=True, return_inverse=True)
        candidate = left[first][place]
        distance = np.zeros(len(left))
        other = np.flatnonzero(candidate != left)
        distance[other] = np.linalg.norm(unit[:, left[other]] - unit[:, candidate[other]], axis=0)
        joined = distance <= tolerance
        leader[left[joined]] = candidate[joined]
        left = left[~joined]
    return Classes(leader, norm / norm[leader])


def _lump_site(
    layers: Layers, index: int, slopes: tuple[Any, Any], tolerance: float, magnitude: Array
) -> tuple[Layers, np.ndarray]:
    """Lumps one site; also returns how far each unit's stand-in may be from it."""
    layer = layers[index]
    layers, constant = _without_constants(layers, index, slopes)
    live = np.flatnonzero(~constant)
    drift = np.zeros(layer.units)
    if not len(live):
        return layers, drift
    pairs = np.stack([_per_unit(slope, layer) for slope in slopes])[:, live]
    _, kind = np.unique(pairs, axis=1, return_inverse=True)
    columns = np.concatenate([layer.kernel, layer.bias[None]])[:, live]
    leader, ratio = proportional_classes(columns, kind.reshape(-1), tolerance)
    gone = np.flatnonzero(leader != np.arange(len(live)))
    difference = np.abs(columns[:, gone] - ratio[gone] * columns[:, leader[gone]])
    steep = np.abs(pairs[:, gone]).max(axis=0)
    drift[live[gone]] = steep * _reach(np.append(magnitude, 1.0), difference)
    kept = np.delete(np.arange(len(live)), gone)
    rows = outgoing(layers, index)
    # Sums the rows of each class, weighted by the ratios, in one pass over them.
    place = np.searchsorted(kept, leader), np.arange(len(live))
    merge = scipy.sparse.csr_array((ratio, place), shape=(len(kept), len(live)))
    rows = np.concatenate([merge @ rows[: len(live)], rows[len(live) :]])
    layers = replaced(layers, index, keep_units(layers[index], kept))
    return with_outgoing(layers, index, rows), drift


def _without_constants(
    layers: Layers, index: int, slopes: tuple[Any, Any]
) -> tuple[Layers, np.ndarray]:
    """Moves units that read nothing into the next bias; also returns which they are."""
    layer = layers[index]
    constant = ~layer.kernel.any(axis=0)
    if not constant.any():
        return layers, constant
    below, above = (_per_unit(slope, layer) for slope in slopes)
    value = np.where(layer.bias < 0, below, above) * layer.bias
    offset = np.zeros(layer.features)
    offset[: layer.units][constant] = value[constant]
    layers = substitute(layers, index + 1, lambda rows: rows, offset)
    rows = np.delete(outgoing(layers, index), np.flatnonzero(constant), axis=0)
    layers = replaced(layers, index, keep_units(layer, ~constant))
    return with_outgoing(layers, index, rows), constant


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
        if layer.carry:
            through = through + onward[k + r :]
        onward = through if layer.down is None else np.abs(layer.down) @ through
    return tuple(gains)


def _magnitude(layer: Layer, magnitude: Array, slopes: tuple[Any, Any] | None) -> np.ndarray:
    """Greatest magnitudes of a layer's features, given those of what it reads."""
    steep = _steepness(slopes, layer)
    parts = [steep * (_reach(magnitude, np.abs(layer.kernel)) + np.abs(layer.bias))]
    if layer.linear is not None:
        parts.append(_reach(magnitude, np.abs(layer.linear)))
    if layer.carry:
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
