"""First and second moments of samples, batch by batch: on the device, then on the host.

Batches are merged about their own means (Chan, Golub & LeVeque 1983), so that single precision
does on the device; every few batches what has come together moves to float64 on the host.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.network import Network
from linjax.dims.run import execute
from linjax.dims.sizes import Flat, read_sizes
from linjax.errors import EvidenceError
from linjax.evidence.expand import expanded
from linjax.evidence.places import everywhere, part, places, samples, taps
from linjax.evidence.points import Samples, unit_samples
from linjax.evidence.spreading import Spread, outer

Array = Any

PARTS, PART = 4, 256
"""Into how many blocks of columns a product with itself is cut, and their least width."""


class Units(NamedTuple):
    """Moments of single units: z before their activation, h where they are read.

    Attributes:
      count: how many samples, or what they weigh; whole numbers stay such.
      active: ``(n, m)`` in how many of them z is above zero.
      mean: ``(n, 2, m)`` of z and h.
      scatter: ``(n, 3, m)`` centred sums of z², of h², of z·h.
    """

    count: Array
    active: Array
    mean: Array
    scatter: Array


class Sums(NamedTuple):
    """Moments of rows ``(n, samples, w)``: how many, or what they weigh, ``(n, w)`` and
    ``(n, w, w)`` means and centred sums of outer products: on the device their lower blocks alone
    (:func:`lower_gram`), on the host all of them."""

    count: Array
    mean: Array
    scatter: Array


class Batch(NamedTuple):
    """Moments of some rows of the calibration set: of units by site, and by place of evidence.

    Beside them, on request, what the network makes of these rows."""

    units: tuple[Units, ...]
    places: tuple[Sums, ...]
    outputs: Any = None


@functools.partial(jax.jit, static_argnames=("network", "whole", "chosen", "spread", "shown"))
def batch_sums(
    network: Network, flat: Flat, inputs: list[Array], weights: Array | None, whole: bool,
    turn: Array | None = None, chosen: tuple[tuple[int, int], ...] | None = None,
    starts: Array | None = None, spread: Spread | None = None, shown: bool = False,
) -> Batch:  # fmt: skip
    """Takes the moments of some rows.

    Args:
      network: the traced network.
      flat: its parameters.
      inputs: the leaves of the rows.
      weights: of the rows, or of their positions.
      whole: whether second moments of all coordinates, and of kernels, are wanted.
      turn: which samples count, by a remainder and a divisor of their numbers; by default all.
      chosen: places of evidence, by number, and how many repeats of each; by default all.
      starts: ``(places,)`` which repeats these begin with.
      spread: over which devices; second moments then have one entry for each set of samples in
        front.
      shown: whether the outputs are wanted, too.
    """
    some = everywhere(network) if chosen is None else chosen
    at = [places(network)[n] for n, _ in some] if whole else []
    unread: frozenset[int] = frozenset()
    if whole:
        sites = [network.foldable[n] for n in dict.fromkeys(p.site for p in at) if n is not None]
        flat, unread = expanded(network, flat, sites)
    outputs, values = execute(network, flat, inputs, taps(network, at), unread=unread)
    sizes = read_sizes(network, flat, inputs)
    sums = []
    for n, (place, (_, size)) in enumerate(zip(at, some, strict=False)):
        if place.sampled:
            own = samples(network, place, values, sizes, weights)
            rows = part(own.rows, None if starts is None else starts[n], size)
            counted = _counted(turn, own.weights, rows.shape[1])
            sums.append(sums_of(Samples(rows, counted), spread))
    return Batch(
        tuple(
            _units(z, h, _counted(turn, own, h.shape[1]))
            for z, h, own in unit_samples(network, values, sizes, weights)
        ),
        tuple(sums),
        outputs if shown else None,
    )


def _counted(turn: Array | None, weights: Array | None, count: int) -> Array | None:
    """Weights of samples, of those alone whose turn it is."""
    if turn is None:
        return weights
    return (jnp.arange(count) % turn[1] == turn[0]).astype(jnp.int32)


def _units(z: Array, h: Array, weights: Array | None) -> Units:
    dtype = jnp.promote_types(h.dtype, jnp.float32)
    positive, pair = z > 0, jnp.stack([z, h], axis=2).astype(dtype)
    if weights is None:
        count, active = jnp.int32(h.shape[1]), jnp.sum(positive, axis=1, dtype=jnp.int32)
    else:
        kind = jnp.int32 if jnp.issubdtype(weights.dtype, jnp.integer) else weights.dtype
        count = jnp.sum(weights, dtype=kind)
        active = jnp.sum(jnp.where(positive, weights[:, None], 0), axis=1, dtype=kind)
    mean, centred = _centred(pair.reshape(*pair.shape[:2], -1), weights)
    centred = centred.reshape(pair.shape)
    mean = mean.reshape(mean.shape[0], 2, -1)
    return Units(count, active, mean, jnp.sum(_pairs(jnp, centred), axis=1))


def sums_of(own: Samples, spread: Spread | None = None) -> Sums:
    """Moments of samples, lower blocks alone; several sets of devices have some each."""
    x = own.rows.astype(jnp.promote_types(own.rows.dtype, jnp.float32))
    if spread is not None:
        return Sums(*outer(x, own.weights, spread, _about_mean))
    count, mean, centred = _about_mean(x, own.weights)
    return Sums(count, mean, lower_gram(centred))


def _about_mean(x: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """Number of samples, their mean, and what is apart from it."""
    count = jnp.asarray(x.shape[1], x.dtype)
    if weights is not None:
        count = jnp.sum(weights, dtype=x.dtype)
    return count, *_centred(x, weights)


def lower_gram(x: Array) -> Array:
    """Sums of outer products of ``(n, samples, w)`` rows: ``(n, w, w)``, its lower blocks alone.

    What is above them is the same again, and half of the work; :func:`mirrored` puts it there,
    once for all batches.
    """
    width, rows = x.shape[-1], []
    for start, end in _parts(width):
        own = jnp.einsum("nsi,nsj->nij", x[..., start:end], x[..., :end], precision="highest")
        rows.append(jnp.pad(own, ((0, 0), (0, 0), (0, width - end))))
    return jnp.concatenate(rows, axis=1) if len(rows) > 1 else rows[0]


def mirrored(lower: np.ndarray) -> np.ndarray:
    """Puts what is below the diagonal above it, in place."""
    for start, end in _parts(lower.shape[-1]):
        lower[..., :start, start:end] = lower[..., start:end, :start].swapaxes(-1, -2)
    return lower


def _parts(width: int) -> list[tuple[int, int]]:
    step = max(-(-width // PARTS), PART)
    return [(start, min(start + step, width)) for start in range(0, max(width, 1), step)]


def _centred(x: Array, weights: Array | None) -> tuple[Array, Array]:
    """Means of ``(n, samples, w)``, and what is apart from them, times the weights' roots."""
    if weights is None:
        mean = jnp.sum(x, axis=1) / max(x.shape[1], 1)  # no places are left in some networks
        return mean, x - mean[:, None]
    weights = weights.astype(x.dtype)[:, None]
    x = jnp.where(weights > 0, x, 0)
    mean = jnp.sum(weights * x, axis=1) / jnp.maximum(jnp.sum(weights), 1e-30)
    return mean, (x - mean[:, None]) * jnp.sqrt(weights)


def _pairs(xp: Any, pair: Array) -> Array:
    """Products z², h² and z·h of ``(…, 2, m)``: ``(…, 3, m)``."""
    z, h = pair[..., 0, :], pair[..., 1, :]
    return xp.stack([z * z, h * h, z * h], axis=-2)


def merge_batches(a: Batch, b: Batch) -> Batch:
    """Moments of two disjoint sets of rows as those of one, each device's for itself."""
    places = (
        (jax.vmap(merge_sums) if jnp.ndim(own.count) else merge_sums)(own, other)
        for own, other in zip(a.places, b.places, strict=True)
    )
    return Batch(tuple(map(merge_units, a.units, b.units)), tuple(places))


merge_on_device = jax.jit(merge_batches, donate_argnums=0)
"""A program of its own, so that the one that runs the network is compiled once; the first is
overwritten."""


def merge_units(a: Units, b: Units) -> Units:
    """Moments of single units of two disjoint sets of samples as those of one."""
    xp: Any = np if isinstance(a.mean, np.ndarray) else jnp
    count, share, apart = _apart(a, b)
    between = xp.asarray(a.count * share, a.mean.dtype) * _pairs(xp, apart)
    scatter = a.scatter + b.scatter + between
    return Units(count, a.active + b.active, a.mean + share * apart, scatter)


def merge_sums(a: Sums, b: Sums) -> Sums:
    """Second moments of two disjoint sets of samples as those of one."""
    count, share, apart = _apart(a, b)
    outer = apart[..., :, None] * apart[..., None, :]
    return Sums(count, a.mean + share * apart, a.scatter + b.scatter + a.count * share * outer)


def _apart(a: Any, b: Any) -> tuple[Array, Array, Array]:
    xp: Any = np if isinstance(a.mean, np.ndarray) else jnp
    count = a.count + b.count
    return count, (b.count / xp.maximum(count, 1e-30)).astype(a.mean.dtype), b.mean - a.mean


def on_host(own: Units) -> Units:
    """Moments of units in float64, and whole numbers in int64."""

    def wide(x: Array) -> np.ndarray:
        whole = jnp.issubdtype(x.dtype, jnp.integer)
        return np.asarray(x).astype(np.int64 if whole else np.float64)

    found: Units = jax.tree.map(wide, own)
    return found


class PointMoments(NamedTuple):
    """Moments at a place of evidence, and what errors there cost.

    Attributes:
      count: ``(F,)`` samples (rows times places) by fold of the rows, or their weight.
      mean: ``(F, n, w)`` for n repeats; w is the width m, twice that with linear coordinates.
      scatter: ``(F, n, w, w)`` centred sums of outer products.
      metric: ``(n, q, q)`` Q: what an error at a place costs, on average. Of a site's point
        errors of its coordinates, of a kernel those of its result.
      places: number of samples of an example, on average.
    """

    count: Array
    mean: Array
    scatter: Array
    metric: Array
    places: Array


def about_zero(point: PointMoments) -> PointMoments:
    """Moments about zero, as if they were about the mean."""
    between = point.mean[..., :, None] * point.mean[..., None, :]
    scatter = point.scatter + point.count[:, None, None, None] * between
    return point._replace(mean=0 * point.mean, scatter=scatter)


def merge_points(a: PointMoments, b: PointMoments) -> PointMoments:
    """Moments of two disjoint sets of rows as one."""
    if len(a.count) != len(b.count):
        raise EvidenceError("the second moments were collected in different folds")
    folds = [
        merge_sums(Sums(*(x[f] for x in a[:3])), Sums(*(x[f] for x in b[:3])))
        for f in range(len(a.count))
    ]
    share = float(b.count.sum() / max(a.count.sum() + b.count.sum(), 1e-30))
    metric = (1 - share) * a.metric + share * b.metric
    places = (1 - share) * a.places + share * b.places
    count, mean, scatter = map(np.stack, zip(*folds, strict=True))
    return PointMoments(count, mean, scatter, metric, places)
