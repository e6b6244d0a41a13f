"""Where evidence is taken: what the readers of sites see, and what single kernels read.

A site is read at one or more values of the network, its points; every place of every example is
a sample there. A kernel that could be factored reads its features, a convolution's at all of its
taps; where these are a site's coordinates, the site's point serves for both.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.fitting import kept
from linjax.dims.layout import Layout, number
from linjax.dims.network import Network
from linjax.dims.reads import LARGEST, Frame, Pick, factorable, features, frame_of, results
from linjax.dims.remembered import remembered
from linjax.dims.sites import Site, features_of
from linjax.dims.sizes import Sizes
from linjax.dims.span import Cut, Span, exposed
from linjax.dims.values import Role
from linjax.errors import EvidenceError

Array = Any

_AFFINE = (Role.LINEAR, Role.SHIFTED, Role.SCALED, None)

PLACES = (16, 64)
"""Places of an example that a convolution's features are taken at, at least where there are so
many, and at most: they are many, and alike."""
SAMPLES = 2
"""Samples that a batch should have for each feature, beyond the fewest places of its examples."""
CHEAP = 512
"""Features up to which products are so small that as many places are taken as ever."""


class Read(NamedTuple):
    """A kernel that could be factored.

    Attributes:
      op: its product.
      frame: how that is laid out.
      value: number of what it reads.
      point: the site and its point, by their places, that are this; None where none is.
    """

    op: int
    frame: Frame
    value: int
    point: tuple[int, int] | None


class Samples(NamedTuple):
    """What a place of evidence saw.

    Attributes:
      rows: ``(n, samples, w)`` for n repeats.
      weights: ``(samples,)``, None where all count alike.
    """

    rows: Array
    weights: Array | None


@remembered
def reads(network: Network) -> tuple[Read, ...]:
    """The kernels that could be factored, in the order of execution."""
    points = {
        (site.points[j], site.dim): (i, j)
        for i, site in enumerate(network.foldable)
        for j in range(len(site.points))
        if not site.beside
    }
    found = []
    for op in factorable(network):
        frame = frame_of(network, op)
        operand: Any = frame.op.inputs[frame.data]
        point = None
        if frame.op.name == "dot_general":
            own = [span.dim for span in features_of(network.layout, network.kernels[op])]
            point = points.get((operand.id, own[0])) if len(own) == 1 else None
        found.append(Read(op, frame, operand.id, point))
    return tuple(found)


@remembered
def before(network: Network, site: Site) -> int:
    """Number of a site's pre-activations: what its makers make, biases and scales included.

    Where several meet before anything is bent (a gate, a normalised stream), what is read.
    """
    joined = (own for own in network.merges.values() if site.linear)
    roots = [min(added) for own in joined for dim, added in own if dim == site.dim]
    value = min(roots, default=site.points[0])
    own = {mark.op: mark.role for mark in network.layout.marks[site.dim] if mark.operand < 0}
    users = network.layout.users[site.dim]
    while value not in site.points:
        onward = [op for op in users if any(getattr(o, "id", None) == value for o in op.inputs)]
        if len(onward) != 1 or own.get(number(onward[0])) not in _AFFINE:
            return value
        value = number(onward[0])
    return value


def unit_samples(
    network: Network, values: dict[int, Array], sizes: Sizes, weights: Array | None
) -> list[tuple[Array, Array, Array | None]]:  # fmt: skip
    """By site its units before their activation and as they are read, and samples' weights.

    Args:
      network: the traced network.
      values: at its taps.
      sizes: of its dimensions.
      weights: of the rows, or of their positions.
    """
    found = []
    for site in network.foldable:
        point, root, k = site.points[0], before(network, site), sizes.kept[site.dim]
        h = at_point(network, site, point, values[point], sizes)[..., :k]
        z = at_point(network, site, root, values[root], sizes)[..., :k]
        if z.shape != h.shape:  # pooled on the way
            z = h
        found.append((z, h, weights_at(network, site, point, values[point], sizes, weights)))
    return found


def point_spans(layout: Layout, value: int) -> tuple[Span, ...]:
    """Axes of a value as it is tapped: the steps of its scans first."""
    return (*_steps(layout, value), *layout.values[value].spans)


def _steps(layout: Layout, value: int) -> tuple[Span, ...]:
    """The steps of the scans that a value stands in; it may be what enters one."""
    if value in layout.makers:
        return layout.steps[number(layout.makers[value])]
    for op in layout.program.all_ops():
        if op.scan is not None and any(ref.id == value for ref in op.scan.body.inputs):
            return layout.steps[number(op.scan.body.ops[0])]
    return ()


def at_point(network: Network, site: Site, value: int, array: Array, sizes: Sizes) -> Array:
    """A site's coordinates at a point: ``(repeats, samples, coordinates)``."""
    cut = Cut(site.dim, site.beside, sizes.all, lambda x: x)
    found = exposed(array, point_spans(network.layout, value), cut)
    return found.reshape(math.prod(found.shape[:-2]), *found.shape[-2:])


def read_at(
    network: Network, read: Read, value: Array, weights: Array | None
) -> tuple[Array, Array | None]:
    """What a kernel reads at some places of every example, and what these weigh."""
    shape, own = window_of(network, read), None
    pick = _picked(read.frame, value, shape)
    if weights is not None:
        spread = jnp.broadcast_to(_by_row(network, read, value, weights), value.shape)
        own = features(read.frame, spread, shape, pick)[0]
        own = jnp.max(own, axis=-1)  # padding weighs nothing
    return features(read.frame, value, shape, pick), own


def window_of(network: Network, read: Read) -> tuple[int, ...]:
    """The shape of a kernel in the traced network."""
    return tuple(span.size for span in network.layout.leaves[network.kernels[read.op].leaf])


def taps_of(frame: Frame, window: tuple[int, ...]) -> int:
    """How many entries of a channel a convolution reads for each of its results; 1 for others."""
    if frame.op.name == "dot_general":
        return 1
    return math.prod(window[n] for n in frame.op.params["dimension_numbers"].rhs_spec[2:])


def channels(network: Network, read: Read) -> Span:
    """The axis of what a convolution reads that its kernel has channels for."""
    at = read.frame.op.params["dimension_numbers"].lhs_spec[1]
    return network.layout.values[read.value].spans[at]


def in_patches(network: Network, read: Read) -> bool:
    """Whether a kernel reads several entries of a channel at a time, linear ones beside them."""
    taps = taps_of(read.frame, window_of(network, read))
    return taps > 1 and 2 * taps * channels(network, read).size <= LARGEST


def without_linear(network: Network, number: int, value: Array, sizes: Sizes) -> Array:
    """A value without linear coordinates, wherever they stand: parts of an axis have their own."""
    for n, span in enumerate(point_spans(network.layout, number)):
        if set(span.dims()) & set(sizes.beside):
            value = jnp.take(value, np.flatnonzero(kept(span, sizes, sizes.beside)), axis=n)
    return value


def _picked(frame: Frame, value: Array, window: tuple[int, ...]) -> Pick | None:
    """Some places of every example, others in each, where they are many."""
    if frame.op.name == "dot_general":
        return None
    numbers = frame.op.params["dimension_numbers"]
    examples = max(value.shape[numbers.lhs_spec[0]], 1)
    read = value.shape[numbers.lhs_spec[1]] * taps_of(frame, window)
    least, most = PLACES
    if read > CHEAP:
        most = int(np.clip(-(-SAMPLES * read // examples), least, most))

    def pick(samples: int) -> Any:
        return some(samples, examples, most)

    return pick


def some(samples: int, examples: int, most: int) -> Any:
    """So many places of every example at most, others in each: a slice, or where they are."""
    each = samples // examples
    if each <= most:
        return slice(None)
    order = np.argsort(np.random.default_rng(0).random((examples, each)), axis=1)[:, :most]
    return np.sort(order + np.arange(examples)[:, None] * each, axis=1).reshape(-1)


def _by_row(network: Network, read: Read, value: Array, weights: Array) -> Array:
    """Weights along the axes of a value that are the first input's."""
    spans = network.layout.values[read.value].spans
    return _placed(network, spans, value, weights, network.names[network.kernels[read.op].leaf])


def weights_at(
    network: Network, site: Site, point: int, value: Array, sizes: Sizes, weights: Array | None
) -> Array | None:
    """One weight for each sample at a point; positions that it lacks count as their heaviest."""
    if weights is None:
        return None
    spans = point_spans(network.layout, point)
    full = jnp.broadcast_to(_placed(network, spans, value, weights, site.name), value.shape)
    return at_point(network, site, point, full, sizes)[0, :, 0]


def weights_of_results(
    network: Network, read: Read, value: Array, weights: Array | None
) -> Array | None:
    """One weight for each sample of a kernel's result."""
    if weights is None:
        return None
    spans, name = network.layout.values[read.op].spans, network.names[network.kernels[read.op].leaf]
    own = jnp.broadcast_to(_placed(network, spans, value, weights, name), value.shape)
    return results(read.frame, own)[0, :, 0]


def _placed(
    network: Network, spans: tuple[Span, ...], value: Array, weights: Array, name: str
) -> Array:
    """Weights laid out to be spread over a value."""
    layout = network.layout
    inputs = layout.values[layout.inputs[0].id].spans
    if weights.shape != tuple(span.size for span in inputs[: weights.ndim]):
        raise EvidenceError(f"{name}: weights of shape {weights.shape} don't fit its samples")
    wanted = [span.dim for span in inputs[: weights.ndim]]
    at = [n for n, span in enumerate(spans) if span.dim in wanted]
    if not at or spans[at[0]].dim != wanted[0]:
        raise EvidenceError(
            f"{name}: its samples aren't told by rows, so weights can't be followed to it"
        )
    missing = [n for n, dim in enumerate(wanted) if dim not in {spans[k].dim for k in at}]
    own = jnp.max(weights, axis=tuple(missing)) if missing else weights
    return own.reshape([value.shape[n] if n in at else 1 for n in range(value.ndim)])
