"""Second moments of what the sites' readers see, and how much the outputs mind.

A site is read at one or more values of the network, its points. At each of them are gathered

    C = Cov([h | z])    h the coordinates, z the same without their activation where these could
                        come along; for every repeat, by folds of the rows
    Q = E[Jᵀ F J]       J the outputs' Jacobian by the coordinates at a place, F the output metric

so that an error ĥ − h costs tr(Q Cov(ĥ − h)) at a place, to first order.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.layout import Layout, number
from linjax.dims.network import Network
from linjax.dims.run import execute
from linjax.dims.sites import Site
from linjax.dims.sizes import Flat, Sizes, read_sizes
from linjax.dims.span import Cut, Span, exposed
from linjax.errors import EvidenceError
from linjax.evidence.moments import merge_scatter
from linjax.evidence.sensitivity import cotangents, weighted
from linjax.evidence.weights import of_rows
from linjax.fold.objective import curvature

Array = Any


class PointMoments(NamedTuple):
    """Moments at a point of a site.

    Attributes:
      count: ``(F,)`` samples (rows times places) by fold of the rows, or their weight.
      active: ``(F, n, m)`` how many of them a coordinate is above zero in.
      mean: ``(F, n, w)`` for n repeats; w is the width m, twice that with linear coordinates.
      scatter: ``(F, n, w, w)`` centred sums of outer products.
      metric: ``(n, m, m)`` what an error at a place costs, on average.
      places: number of samples of an example.
    """

    count: Array
    active: Array
    mean: Array
    scatter: Array
    metric: Array
    places: Array


Points = tuple[tuple[PointMoments, ...], ...]


class Sums(NamedTuple):
    """What a batch says of a point: weight of its samples, active ones, mean, centred sums."""

    count: Array
    active: Array
    mean: Array
    scatter: Array


def point_spans(layout: Layout, value: int) -> tuple[Span, ...]:
    """Axes of a value as it is tapped: the steps of its scans first."""
    loops = _loops(layout, value)
    return (*(Span(d, layout.traced[d]) for d in loops), *layout.values[value].spans)


def _loops(layout: Layout, value: int) -> tuple[int, ...]:
    """Dimensions of the scans that a value stands in; it may be what enters a step."""
    if value in layout.makers:
        return layout.loops[number(layout.makers[value])]
    for op in layout.program.all_ops():
        if op.scan is not None and any(ref.id == value for ref in op.scan.body.inputs):
            return layout.loops[number(op.scan.body.ops[0])]
    return ()


def at_point(network: Network, site: Site, value: int, array: Array, sizes: Sizes) -> Array:
    """A site's coordinates at a point: ``(repeats, samples, coordinates)``."""
    cut = Cut(site.dim, site.beside, sizes.all, lambda x: x)
    found = exposed(array, point_spans(network.layout, value), cut)
    return found.reshape(math.prod(found.shape[:-2]), *found.shape[-2:])


def _taps(sites: tuple[Site, ...]) -> frozenset[int]:
    return frozenset(p for s in sites for p in s.points)


@functools.partial(jax.jit, static_argnames=("network",))
def moment_sums(network: Network, flat: Flat, inputs: list[Array], weights: Array | None) -> Any:
    """Counts, means and centred sums at every point, for a batch; by site and point."""
    sites = network.foldable
    values = execute(network, flat, inputs, _taps(sites)).values
    sizes = read_sizes(network, flat, inputs)
    found = []
    for site in sites:
        own = []
        for point in site.points:
            x = at_point(network, site, point, values[point], sizes).astype(jnp.float32)
            own.append(_sums(x, _weights_at(network, site, point, values[point], sizes, weights)))
        found.append(tuple(own))
    return tuple(found)


def _sums(x: Array, weights: Array | None) -> Sums:
    if weights is None:
        count = jnp.asarray(x.shape[1], jnp.float32)
        mean = jnp.sum(x, axis=1) / max(x.shape[1], 1)  # no places are left in some networks
        centred = x - mean[:, None]
        active = jnp.sum(x > 0, axis=1).astype(jnp.float32)
    else:
        weights = weights.astype(jnp.float32)
        count = jnp.sum(weights)
        x = jnp.where(weights[:, None] > 0, x, 0)
        mean = jnp.einsum("s,nsi->ni", weights, x) / jnp.maximum(count, 1e-30)
        centred = (x - mean[:, None]) * jnp.sqrt(weights)[:, None]
        active = jnp.einsum("s,nsi->ni", weights, (x > 0).astype(jnp.float32))
    scatter = jnp.einsum("nsi,nsj->nij", centred, centred, precision="highest")
    return Sums(count, active, mean, scatter)


def _weights_at(
    network: Network, site: Site, point: int, value: Array, sizes: Sizes, weights: Array | None
) -> Array | None:
    """One weight for each sample at a point; positions that it lacks count as their heaviest."""
    if weights is None:
        return None
    layout = network.layout
    spans = point_spans(layout, point)
    inputs = layout.values[layout.inputs[0].id].spans
    if weights.shape != tuple(span.size for span in inputs[: weights.ndim]):
        raise EvidenceError(f"{site.name}: weights of shape {weights.shape} don't fit its samples")
    wanted = [span.dim for span in inputs[: weights.ndim]]
    at = [n for n, span in enumerate(spans) if span.dim in wanted]
    if not at or spans[at[0]].dim != wanted[0]:
        raise EvidenceError(
            f"{site.name}: its samples aren't told by rows, so weights can't be followed to it"
        )
    missing = [n for n, dim in enumerate(wanted) if dim not in {spans[k].dim for k in at}]
    own = jnp.max(weights, axis=tuple(missing)) if missing else weights
    shape = [value.shape[n] if n in at else 1 for n in range(value.ndim)]
    full = jnp.broadcast_to(own.reshape(shape), value.shape)
    return at_point(network, site, point, full, sizes)[0, :, 0]


@functools.partial(jax.jit, static_argnames=("network", "metric"))
def metric_sums(
    network: Network, flat: Flat, inputs: list[Array], key: Array, metric: str,
    weights: Array | None,
) -> Any:  # fmt: skip
    """Sums of outer products of the outputs' derivatives by the coordinates, and of samples.

    Returns:
      By site and point ``(n, m, m)`` sums and their number of samples in an example; the number
      of examples; and the outputs' variation, summed over these.
    """
    sites = network.foldable
    sizes = read_sizes(network, flat, inputs)
    shapes = jax.eval_shape(lambda: execute(network, flat, inputs, _taps(sites)).values)
    probes = {p: jnp.zeros(v.shape, jnp.float32) for p, v in shapes.items()}

    def run(probe: dict[int, Array]) -> Any:
        return execute(network, flat, inputs, probes=probe).outputs

    outputs, pull = jax.vjp(run, probes)
    (gradients,) = jax.vmap(pull)(weighted(cotangents(outputs, key, metric), outputs, weights))
    rows = jnp.asarray(_rows(inputs), jnp.float32)
    if weights is not None:
        rows = jnp.sum(of_rows(weights)).astype(jnp.float32)
    found = []
    for site in sites:
        own = []
        for point in site.points:
            pick = functools.partial(_picked, network, site, point, sizes)
            g = jax.vmap(pick)(gradients[point])
            gram = jnp.einsum("cnsi,cnsj->nij", g, g, precision="highest")
            own.append((gram, jnp.asarray(g.shape[2] / _rows(inputs), jnp.float32)))
        found.append(tuple(own))
    return tuple(found), rows, _variation(outputs, metric, weights)


def _picked(network: Network, site: Site, point: int, sizes: Sizes, value: Array) -> Array:
    return at_point(network, site, point, value, sizes)


def _rows(inputs: Sequence[Array]) -> int:
    return inputs[0].shape[0] if inputs and inputs[0].ndim else 1


def _variation(outputs: Any, metric: str, weights: Array | None) -> Array:
    """Squares of the outputs about their mean in the output metric, summed."""
    floats = [y for y in jax.tree.leaves(outputs) if jnp.issubdtype(y.dtype, jnp.floating)]
    total = jnp.zeros(())
    for y in floats:
        rows = y.shape[0] if y.ndim else 1
        each = jnp.ones(rows, y.dtype) if weights is None else of_rows(weights).astype(y.dtype)
        own = each.reshape(rows, *(1,) * (y.ndim - 1)) if y.ndim else each[0]
        y = jnp.where(own > 0, y, 0)
        centred = (y - jnp.sum(own * y, axis=0) / jnp.maximum(jnp.sum(own), 1e-30)) * jnp.sqrt(own)
        total += jnp.sum(centred * curvature([y], [centred], metric)[0])
    return total


class Gathering:
    """Sums of all batches so far, on the host in float64."""

    def __init__(self, folds: int) -> None:
        self.folds = folds
        self.sums: list[Any] = [None] * folds
        self.metrics: Any = None
        self.turn = 0

    def add(self, found: Any) -> None:
        """Takes the sums of some rows, which are the next fold's."""
        fold, self.turn = self.turn % self.folds, self.turn + 1
        old = self.sums[fold]
        self.sums[fold] = (
            found
            if old is None
            else jax.tree.map(_merged, old, found, is_leaf=lambda x: isinstance(x, Sums))
        )

    def weigh(self, found: Any) -> None:
        """Takes the metrics of some rows."""
        self.metrics = found if self.metrics is None else jax.tree.map(np.add, self.metrics, found)
        self.batches = getattr(self, "batches", 0) + 1

    def points(self) -> tuple[Points, float]:
        """Moments and metrics by site and point, and the outputs' variation of an example."""
        parts = [own for own in self.sums if own is not None]
        grams, rows, variation = self.metrics
        examples = max(float(rows), 1e-30)
        found = []
        for i, site in enumerate(grams):
            own = []
            for j, (gram, places) in enumerate(site):
                each = float(places) / self.batches
                stacked = Sums(*(np.stack(x) for x in zip(*(p[i][j] for p in parts), strict=True)))
                metric = np.asarray(gram, np.float64) / (examples * max(each, 1e-30))
                active = stacked.active[..., : metric.shape[-1]]
                own.append(
                    PointMoments(stacked.count, active, *stacked[2:], metric, np.asarray(each))
                )
            found.append(tuple(own))
        return tuple(found), float(variation) / examples


def _merged(a: Sums, b: Sums) -> Sums:
    count, mean, scatter = merge_scatter(
        np.asarray([a.count]), a.mean, a.scatter, np.asarray([b.count]), b.mean, b.scatter
    )
    return Sums(count[0], a.active + b.active, mean, scatter)


def merge_points(a: Points, b: Points) -> Points:
    """Points of two disjoint sets of rows as one."""
    return tuple(
        tuple(_merge_point(x, y) for x, y in zip(own, other, strict=True))
        for own, other in zip(a, b, strict=True)
    )


def _merge_point(a: PointMoments, b: PointMoments) -> PointMoments:
    if len(a.count) != len(b.count):
        raise EvidenceError("the second moments were collected in different folds")
    folds = [
        _merged(Sums(*(x[f] for x in a[:4])), Sums(*(x[f] for x in b[:4])))
        for f in range(len(a.count))
    ]
    share = float(b.count.sum() / max(a.count.sum() + b.count.sum(), 1e-30))
    metric = (1 - share) * a.metric + share * b.metric
    places = (1 - share) * a.places + share * b.places
    count, active, mean, scatter = (np.stack(x) for x in zip(*folds, strict=True))
    return PointMoments(count, active, mean, scatter, metric, places)
