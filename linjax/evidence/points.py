"""Second moments of what the sites' readers see, and how much the outputs mind.

A site is read at one or more values of the network, its points. At each of them are gathered

    C = Cov([h | z])    h the coordinates, z the same without their activation where these could
                        come along; for every repeat, by folds of the rows
    Q = E[Jᵀ F J]       J the outputs' Jacobian by the coordinates at a place, F the output metric

so that an error ĥ − h costs tr(Q Cov(ĥ − h)) at a place, to first order.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.run import execute
from linjax.dims.sites import Form, Site
from linjax.dims.sizes import Flat, Sizes, read_sizes
from linjax.dims.span import Cut, Span, exposed
from linjax.evidence.expand import expanded
from linjax.evidence.moments import merge_scatter
from linjax.evidence.sensitivity import cotangents

Array = Any
SENSITIVITY_BATCHES = 12


class PointMoments(NamedTuple):
    """Moments at a point of a site.

    Attributes:
      count: ``(F,)`` samples (rows times places) by fold of the rows.
      mean: ``(F, n, w)`` for n repeats; w is the width, twice that with linear coordinates.
      scatter: ``(F, n, w, w)`` centred sums of outer products.
      metric: ``(n, m, m)`` what an error at a place costs, on average.
      places: number of samples of an example.
    """

    count: Array
    mean: Array
    scatter: Array
    metric: Array
    places: float


class Evidence(NamedTuple):
    """What was gathered.

    Attributes:
      points: by site and in the order of its points.
      variation: mean square of the outputs about their mean in the output metric, an example.
      rows: number of examples.
    """

    points: dict[str, tuple[PointMoments, ...]]
    variation: float
    rows: int
    kernels: dict[int, Any] = {}


def measured_sites(network: Network) -> tuple[Site, ...]:
    """The sites that moments are gathered for."""
    return tuple(s for s in network.sites if s.form is not Form.BLOCKS)


def gather(
    network: Network, flat: Flat, batches: Iterable[tuple[Any, ...]], metric: str, folds: int = 2
) -> Evidence:
    """Gathers moments and metrics in one streaming pass."""
    sites = measured_sites(network)
    wide = expanded(network, {k: jnp.asarray(v) for k, v in flat.items()})
    totals: dict[tuple[int, int], Any] = {}
    metrics: list[Any] = []
    outputs: list[Any] = []
    rows, index = 0, 0
    for batch in batches:
        leaves = jax.tree.leaves(batch)
        for part in _parted(leaves, folds):
            found = _moments(network, sites, wide, part)
            for key, own in found.items():
                fold = index % folds
                _merge(totals, (key, fold), own)
            index += 1
        if len(metrics) < SENSITIVITY_BATCHES:
            key = jax.random.fold_in(jax.random.key(0), len(metrics))
            some = [x[: max(1, 1536 // SENSITIVITY_BATCHES // _weight(network))] for x in leaves]
            metrics.append(jax.device_get(_metrics(network, sites, flat, some, key, metric)))
            outputs.append(jax.device_get(_variation(network, flat, some, metric)))
        rows += len(leaves[0])
    return Evidence(_collected(network, sites, totals, metrics, folds, rows), float(np.mean(outputs)), rows)


def _weight(network: Network) -> int:
    ops = {op.name for op in network.layout.program.all_ops()}
    return 4 if "conv_general_dilated" in ops else 1


def _parted(leaves: Sequence[Array], folds: int) -> list[list[Array]]:
    """A batch's rows in as many parts as there are folds, if all inputs have the same rows."""
    counts = {len(x) if np.ndim(x) else 0 for x in leaves}
    if len(counts) > 1 or min(counts) < folds:
        return [list(leaves)]
    return [[x[f::folds] for x in leaves] for f in range(folds)]


def point_spans(network: Network, value: int) -> tuple[Span, ...]:
    """Axes of a value as it is tapped: the steps of its scans first."""
    layout = network.layout
    op = layout.makers.get(value)
    loops = layout.loops[number(op)] if op is not None else ()
    return (*(Span(d, layout.traced[d]) for d in loops), *layout.values[value].spans)


def at_point(network: Network, site: Site, value: int, array: Array, sizes: Sizes) -> Array:
    """What a site's coordinates are at a point: ``(*repeats, samples, coordinates)``."""
    cut = Cut(site.dim, site.beside, sizes.all, lambda x: x)
    return exposed(array, point_spans(network, value), cut)


@functools.partial(jax.jit, static_argnames=("network", "sites"))
def _moments(network: Network, sites: tuple[Site, ...], flat: Flat, inputs: list[Array]) -> Any:
    """Counts, means and centred sums at every point of a batch."""
    taps = frozenset(p for s in sites for p in s.points)
    values = execute(network, flat, inputs, taps).values
    sizes = read_sizes(network, flat, inputs)
    found = {}
    for k, site in enumerate(sites):
        for j, point in enumerate(site.points):
            x = at_point(network, site, point, values[point], sizes)
            x = x.reshape(-1, *x.shape[-2:]).astype(jnp.float32)
            mean = jnp.mean(x, axis=1)
            x = x - mean[:, None]
            scatter = jnp.einsum("nsi,nsj->nij", x, x, precision="highest")
            found[f"{k}/{j}"] = (jnp.asarray(x.shape[1], jnp.float32), mean, scatter)
    return found


def _merge(totals: dict[Any, Any], key: Any, own: Any) -> None:
    own = tuple(np.asarray(x, np.float64) for x in jax.device_get(own))
    if key not in totals:
        totals[key] = own
        return
    count, mean, scatter = totals[key]
    totals[key] = merge_scatter(
        np.full((1,), count), mean, scatter, np.full((1,), own[0]), own[1], own[2]
    )
    totals[key] = (float(totals[key][0][0]), *totals[key][1:])


@functools.partial(jax.jit, static_argnames=("network", "sites", "metric"))
def _metrics(
    network: Network, sites: tuple[Site, ...], flat: Flat, inputs: list[Array], key: Array,
    metric: str,
) -> Any:  # fmt: skip
    """Mean outer products of the outputs' derivatives by the coordinates at every point."""
    taps = frozenset(p for s in sites for p in s.points)
    sizes = read_sizes(network, flat, inputs)
    shapes = jax.eval_shape(lambda: execute(network, flat, inputs, taps).values)
    probes = {p: jnp.zeros(v.shape, jnp.float32) for p, v in shapes.items()}
    outputs, pull = jax.vjp(
        lambda probe: execute(network, flat, inputs, probes=probe).outputs, probes
    )
    (gradients,) = jax.vmap(pull)(cotangents(outputs, key, metric))
    rows = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
    found = {}
    for k, site in enumerate(sites):
        for j, point in enumerate(site.points):
            g = jax.vmap(lambda a, s=site, p=point: at_point(network, s, p, a, sizes))(
                gradients[point]
            )
            g = g.reshape(g.shape[0], -1, *g.shape[-2:])
            gram = jnp.einsum("cnsi,cnsj->nij", g, g, precision="highest")
            found[f"{k}/{j}"] = (gram / g.shape[2], jnp.asarray(g.shape[2] / rows))
    return found


@functools.partial(jax.jit, static_argnames=("network", "metric"))
def _variation(network: Network, flat: Flat, inputs: list[Array], metric: str) -> Array:
    """Mean square of the outputs about their mean in the output metric, an example."""
    from linjax.fold.objective import curvature

    outputs = execute(network, flat, inputs).outputs
    rows = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
    centred = jax.tree.map(lambda y: y - jnp.mean(y, axis=0), outputs)
    weighed = curvature(outputs, centred, metric)
    pairs = zip(jax.tree.leaves(centred), jax.tree.leaves(weighed), strict=True)
    return sum(jnp.sum(a * b) for a, b in pairs) / rows


def _collected(
    network: Network, sites: tuple[Site, ...], totals: Any, metrics: list[Any], folds: int, rows: int
) -> dict[str, tuple[PointMoments, ...]]:
    found = {}
    for k, site in enumerate(sites):
        own = []
        for j in range(len(site.points)):
            key = f"{k}/{j}"
            parts = [totals[key, f] for f in range(folds) if (key, f) in totals]
            own.append(
                PointMoments(
                    np.array([p[0] for p in parts]),
                    np.stack([p[1] for p in parts]),
                    np.stack([p[2] for p in parts]),
                    np.mean([np.asarray(m[key][0], np.float64) for m in metrics], axis=0),
                    float(np.mean([m[key][1] for m in metrics])),
                )
            )
        found[site.name] = tuple(own)
    return found
