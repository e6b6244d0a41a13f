"""Moments measured on a network that is folded up to some depth, beside the original's targets."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.evidence import sums
from linjax.evidence.moments import merge_scatter
from linjax.fold.hasty import jit_hastily
from linjax.fold.least_squares.features import Frame
from linjax.fold.least_squares.padding import padded, recurring
from linjax.fold.objective import importance
from linjax.graph import pytree
from linjax.graph.chains import write_chain
from linjax.graph.layers import Layers
from linjax.graph.net import Net

Array = Any


class Link(NamedTuple):
    """What takes a layer's features to the next, as arrays: a :class:`Layer` but for its units."""

    down: Array | None
    linear: Array | None


def _links(layers: Layers) -> tuple[tuple[Link, ...], tuple[bool, ...]]:
    def narrow(x: Array | None) -> Array | None:
        return None if x is None else jnp.asarray(x, jnp.float32)

    links = tuple(Link(narrow(layer.down), narrow(layer.linear)) for layer in layers)
    return links, tuple(layer.carry for layer in layers)


def _walk(
    links: tuple[Link, ...], carries: tuple[bool, ...], source: Array, posts: list[Array]
) -> Array:
    """Features behind some layers, from the chain's input and the units' activations."""
    v = source
    for link, carry, post in zip(links, carries, posts, strict=False):
        inner = v if link.down is None else v @ link.down
        parts = [post]
        if link.linear is not None:
            parts.append(inner @ link.linear)
        if carry:
            parts.append(inner)
        v = jnp.concatenate(parts, axis=1)
    return v


def _activations(net: Net, params: Any, inputs: Any, chain: int) -> tuple[Array, list[Array], Any]:
    outputs, taps, _ = net.run(params, *inputs)
    sites = net.graph.chains[chain].sites
    source = taps[sites[0].name].source.astype(jnp.float32)
    nothing = jnp.zeros((source.shape[0], 0), jnp.float32)
    posts = [taps[s.name].post for s in sites]
    return source, [nothing if p is None else p.astype(jnp.float32) for p in posts], outputs


@functools.partial(
    jit_hastily, static_argnames=("net", "chain", "carries", "own", "units", "metric")
)
def _batch_moments(
    net: Net, original: Any, folded: Any, inputs: Any, *,
    links: tuple[Link, ...], own_links: tuple[Link, ...], matrix: Array,
    chain: int, carries: tuple[bool, ...], own: tuple[bool, ...], units: int | None, metric: str,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Weighted moments on one batch: sum of weights, mean, centred scatter."""
    source, posts, outputs = _activations(net, original, inputs, chain)
    target = _walk(links, carries, source, posts) @ matrix
    source, posts, _ = _activations(net, folded, inputs, chain)
    parts = [_walk(own_links, own, source, posts)]
    if units is not None:
        parts.append(posts[units])
    rows = jnp.concatenate([*parts, target], axis=1)
    return sums.moments(rows, importance(outputs, rows.shape[0], metric))


def _gather(passes: Iterable[tuple[Array, Array, Array]]) -> Frame:
    """Merges the batches' moments in float64."""
    total = None
    for batch in passes:
        now = tuple(np.asarray(x, np.float64) for x in batch)
        total = now if total is None else merge_scatter(*total, *now)
    count, mean, scatter = total
    return Frame(float(count), mean, scatter / count)


class Data(NamedTuple):
    """The original network and rows to measure on.

    Attributes:
      net: the traced network.
      original: its parameters.
      batches: makes an iterator of tuples of inputs.
      metric: output metric.
    """

    net: Net
    original: Any
    batches: Callable[[], Iterable[Any]]
    metric: str


class Target(NamedTuple):
    """A linear map of the original's features at a depth: ``v @ matrix``."""

    layers: Layers
    depth: int
    matrix: Array


def measure(
    data: Data, chain: int, before: pytree.Flat, own: Layers, depth: int, target: Target
) -> Frame:
    """Gathers moments of [features, units, target] in one pass over the data.

    Rows are weighted by the trace of the output metric, since an error is worth little where
    the outputs can't move.

    Args:
      data: the original and the rows.
      chain: index of the chain.
      before: parameters with the chains before it folded.
      own: the chain's layers as folded so far: those before ``depth``, whose features are
        measured, and that at ``depth`` if its units are wanted.
      depth: the layer whose features are measured.
      target: what the original computes.

    Returns:
      Moments of the features that the layer reads in the folded network, of its units'
      activations there if ``own`` holds it, and of the target.
    """
    graph = data.net.graph
    wide, places = padded(own, target.layers)
    folded = write_chain(graph, before, graph.chains[chain], _completed(wide, target.layers))
    links, carries = _links(target.layers[: target.depth])
    own_links, own_carries = _links(wide[:depth])
    step = functools.partial(
        _batch_moments, data.net, data.original, pytree.unflatten(folded),
        links=links, own_links=own_links, matrix=_columns(target.matrix),
        chain=chain, carries=carries, own=own_carries, units=depth if len(own) > depth else None,
        metric=data.metric,
    )  # fmt: skip
    seen = _gather(step(inputs) for inputs in data.batches())
    reads, parts = wide[depth - 1].features if depth else len(places[0]), [places[depth]]
    if len(own) > depth:
        parts.append(reads + np.arange(own[depth].units))
        reads += wide[depth].units
    return _narrowed(seen, np.concatenate([*parts, reads + np.arange(target.matrix.shape[1])]))


def _narrowed(data: Frame, rows: Array) -> Frame:
    """The moments of some of the variables."""
    return Frame(data.samples, data.mean[rows], data.covariance[np.ix_(rows, rows)])


def _columns(matrix: Array) -> Array:
    """A matrix with columns of zeros up to a width that recurs."""
    wide = np.zeros((len(matrix), recurring(matrix.shape[1])), np.float32)
    wide[:, : matrix.shape[1]] = matrix
    return jnp.asarray(wide)


def _completed(own: Layers, layers: Layers) -> Layers:
    """The folded layers with layers of fitting widths behind, which nobody looks at."""
    done = list(own)
    for layer in layers[len(own) :]:
        reads = done[-1].features if done else layers[0].reads
        done.append(
            layer._replace(linear=None, carry=False, down=None).with_kernels(
                np.zeros((reads, len(layer.biases))), np.zeros(len(layer.biases))
            )
        )
    return tuple(done)
