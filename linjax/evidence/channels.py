"""Statistics of channels, and second moments of the patches in which they are read.

For a reader with ``K`` taps the patch of a place holds ``K · k`` entries, tap by tap: the
channels with their activation, the linear channels, and, where linear channels could take
the same way, all pre-activations as they would arrive. Patches are taken at some places of
every example and exist for one batch at a time.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from linjax.evidence import sums
from linjax.evidence.moments import Moments
from linjax.evidence.sensitivity import cotangents, weighted
from linjax.evidence.weights import live, number, of_outputs, of_rows, of_samples
from linjax.graph.channels.stream import ChannelTap, Parts
from linjax.graph.channels.windows import Windows, patches
from linjax.graph.net import Net
from linjax.graph.structure import ChannelSite, Graph

Array = Any

PLACES = 16
"""Places of an example that patches are taken at."""
FEATURES = 4608
"""Largest number of entries of a patch; beyond, a site is left alone."""


LIKENESS = 0.6
"""How like the signal's the correlation of errors between places is taken to be, 0 … 1.

The power of a ratio: between errors that are independent from place to place, and ones that are
alike all over an image as far as what is read there is. Measured on trained networks, where it
was 0.35 to 0.7, more where little is left.
"""


class Limits(NamedTuple):
    """What bounds the memory for second moments of patches.

    Attributes:
      places: places of an example that patches are taken at.
      features: the largest number of entries of a patch.
    """

    places: int = PLACES
    features: int = FEATURES


class ChannelSums(NamedTuple):
    """Sums of one site: of its channels, and of the patches of each reader."""

    units: sums.UnitSums
    readings: tuple[sums.ChainSums, ...]


def may_be_linear(graph: Graph, site: ChannelSite) -> bool:
    """Whether a site's channels can travel on without their activation."""
    return site.straight and not any(graph.in_chain(r.consumer) for r in site.readings)


def pair(tap: ChannelTap) -> tuple[Array, Array]:
    """Returns pre-activations and activations, ``(samples, k)`` each."""
    if tap.pre is None or tap.post is None:
        return jnp.zeros((1, 0)), jnp.zeros((1, 0))
    return tap.pre, tap.post


def blocks(parts: Parts, windows: Windows, through: bool, limit: int) -> tuple[int, int, int]:
    """Entries of a patch by part; none where there are too many."""

    def entries(x: Array | None) -> int:
        if x is None:
            return 0
        return windows.taps * (x.shape[windows.axes[-1]] // (windows.outer * windows.inner))

    units, linear = entries(parts.units), entries(parts.linear)
    more = entries(parts.through) if through else 0
    if units + linear > limit:
        return 0, 0, 0
    return units, linear, more if units + linear + more <= limit // 2 else 0


def read_patches(
    graph: Graph, site: ChannelSite, tap: ChannelTap, limits: Limits, key: Array
) -> list[Array]:
    """Returns the patches of each reader of a site, ``(samples, entries)``."""
    result = []
    for reading in site.readings:
        parts, windows = tap.reads[reading.consumer]
        sizes = blocks(parts, windows, may_be_linear(graph, site), limits.features)
        rows = [
            patches(x, windows, limits.places, key)
            for x, size in zip(parts, sizes, strict=True)
            if size
        ]
        flat = [r.reshape(r.shape[0] * r.shape[1], -1) for r in rows]
        example = next(x for x in parts if x is not None)
        result.append(
            jnp.concatenate(flat, axis=1)
            if flat
            else jnp.zeros((example.shape[windows.axes[0]], 0), example.dtype)
        )
    return result


def shapes(net: Net, params: Any, inputs: Any, limits: Limits) -> list[list[tuple[int, int, int]]]:
    """Returns the entries of patches by site and reader."""
    found: list[list[tuple[int, int, int]]] = []

    def run() -> Any:
        outputs, taps, _ = net.run(params, *inputs, through=True)
        for site in net.graph.channels:
            linear = may_be_linear(net.graph, site)
            reads = [taps[site.name].reads[r.consumer] for r in site.readings]
            found.append([blocks(p, windows, linear, limits.features) for p, windows in reads])
        return outputs

    jax.eval_shape(run)
    return found


def finished(c: sums.ChainSums, centre: Array, gram: Array, rows: float, sizes: Any) -> Moments:
    """Turns a reader's sums about a centre into moments."""
    n = np.where(c.count > 0, c.count, 1).astype(np.float64)
    scatter = c.second[0] - c.first[:, :, None] * (c.first / n[:, None])[:, None, :]
    return Moments(
        count=c.count.astype(np.float64),
        mean=np.asarray(centre, np.float64) + c.first / n[:, None],
        scatter=scatter,
        sensitivity=(gram / rows,),
        blocks=tuple(sizes),
    )


@functools.partial(jax.jit, static_argnames=("net", "metric"))
def sensitivity_sums(
    net: Net, params: Any, inputs: tuple[Any, ...], key: Array, metric: str,
    weights: Array | None = None,
) -> tuple[Array, dict[str, Array], dict[str, Array], Array]:  # fmt: skip
    """Sums ``Jᵀ F J`` over the places and examples of a batch, for every reader of channels.

    One cotangent after another: gradients of feature maps are large.

    Returns:
      The number of examples, or their weight; ``(q, q)`` sums by reader, which divided by it weigh
      an error's mean square over places as an error of an example's outputs, places taken as
      independent; by reader, the effect of its own result, centred, on the outputs: all places
      of an example together, squared, and one by one; and the sum of squares of the outputs about
      their mean.
    """
    readers = {r.consumer for site in net.graph.channels for r in site.readings}
    known = jax.eval_shape(lambda p, x: net.run(p, *x)[2], params, inputs)
    probes = {n: jnp.zeros(s.shape, s.dtype) for n, s in known.items() if n in readers}

    def run(probe: Any) -> tuple[Any, dict[str, Array]]:
        outputs, _, results = net.run(params, *inputs, probes=probe)
        return outputs, {name: results[name] for name in probes}

    outputs, pull, results = jax.vjp(run, probes, has_aux=True)
    examples = jax.tree.leaves(inputs)[0].shape[0]
    seeds = weighted(cotangents(outputs, key, metric), outputs, weights)

    def grams(seed: Any) -> dict[str, tuple[Array, Array]]:
        (gradients,) = pull(seed)
        return {n: gram(n, g.reshape(-1, g.shape[-1])) for n, g in gradients.items()}

    def gram(name: str, g: Array) -> tuple[Array, Array]:
        own = of_samples(weights, len(g), name)
        g, z = live(own, g), sums.wide(live(own, results[name]))
        effect = jnp.sum(g * (z - sums.centre(z, own)), axis=1)
        places = len(g) // examples if len(g) % examples == 0 else 1
        whole = jnp.sum(effect.reshape(-1, places), axis=1)
        return sums.gram(g), jnp.stack([jnp.sum(whole**2), jnp.sum(effect**2)])

    total = jax.tree.map(lambda g: jnp.sum(g, axis=0), lax.map(grams, seeds))
    metrics, effects = ({n: pair[i] for n, pair in total.items()} for i in (0, 1))
    each = None if weights is None else of_rows(weights)
    rows = number(each, examples)
    return rows, metrics, effects, _variation(outputs, metric, weights)


def alike(effect: Array) -> float:
    """The factor by which errors of an image's places weigh more together than one by one."""
    whole, one_by_one = effect
    return max(float(whole / one_by_one), 1.0) ** LIKENESS if one_by_one > 0 else 1.0


def _variation(outputs: Any, metric: str, weights: Array | None) -> Array:
    """Sum of squares of the outputs about their mean, in the mean output metric."""
    total = jnp.float32(0.0)
    for leaf in jax.tree.leaves(outputs):
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.ndim == 0:
            continue
        w = jnp.ones((1,) * leaf.ndim) if weights is None else of_outputs(weights, leaf)
        y = sums.wide(leaf.reshape(-1, leaf.shape[-1]))
        w = jnp.broadcast_to(w, (*leaf.shape[:-1], 1)).reshape(-1, 1).astype(y.dtype)
        y = jnp.where(w > 0, y, 0)
        many = jnp.maximum(jnp.sum(w), jnp.finfo(y.dtype).tiny)
        centred = y - jnp.sum(w * y, axis=0) / many
        if metric == "identity" or y.shape[1] < 2:
            total += jnp.sum(w * centred**2)
            continue
        p = jax.nn.softmax(y)
        total += jnp.sum(jnp.sum(w * p, axis=0) / many * jnp.sum(w * centred**2, axis=0))
        total -= jnp.sum(w * (centred @ p.T) ** 2 * w[:, 0]) / many
    return total
