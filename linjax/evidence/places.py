"""The places of evidence: points of sites and kernels, and what is seen at each of them."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from linjax.dims.network import Network
from linjax.dims.reads import results
from linjax.dims.remembered import remembered
from linjax.dims.sizes import Sizes
from linjax.evidence.points import (
    Read,
    Samples,
    at_point,
    before,
    in_patches,
    read_at,
    reads,
    weights_at,
    weights_of_results,
    without_linear,
)

Array = Any


class Place(NamedTuple):
    """A place of evidence: a point of a site, or a kernel that could be factored.

    Attributes:
      name: what messages call it.
      value: number of what is read there.
      result: number of the value whose errors are measured: of a kernel what it makes.
      site: the site, by its place; None of a kernel.
      read: the kernel; None of a site's point.
    """

    name: str
    value: int
    result: int
    site: int | None
    read: Read | None

    @property
    def sampled(self) -> bool:
        """Whether it has moments of its own: a kernel may read what a site's readers do."""
        return self.read is None or self.read.point is None


ALL = -1
"""In place of a number of repeats."""


class Piece(NamedTuple):
    """Some repeats of a place of evidence: so many, from one on."""

    place: int
    start: int
    size: int


@remembered
def places(network: Network) -> tuple[Place, ...]:
    """The places of evidence: points of sites, then kernels."""
    points = [
        Place(site.name, point, point, n, None)
        for n, site in enumerate(network.foldable)
        for point in site.points
    ]
    names = network.names
    kernels = [
        Place(names[network.kernels[r.op].leaf], r.value, r.op, None, r) for r in reads(network)
    ]
    return (*points, *kernels)


def everywhere(network: Network) -> tuple[tuple[int, int], ...]:
    """All places of evidence by number, with all of their repeats: none is left away."""
    return tuple((n, ALL) for n in range(len(places(network))))


def taps(network: Network, some: Sequence[Place] | None = None) -> frozenset[int]:
    """Numbers of the values at which evidence is taken, of units alone without any places."""
    if some is None:
        some = places(network)
    units = (p for site in network.foldable for p in (site.points[0], before(network, site)))
    return frozenset((*units, *(p.value for p in some if p.sampled)))


def samples(
    network: Network, place: Place, values: dict[int, Array], sizes: Sizes, weights: Array | None
) -> Samples:  # fmt: skip
    """What was seen at a place that has moments of its own."""
    value = values[place.value]
    if place.read is not None:
        if not in_patches(network, place.read):
            value = without_linear(network, place.value, value, sizes)
        return Samples(*read_at(network, place.read, value, weights))
    site = network.foldable[place.site or 0]
    rows = at_point(network, site, place.value, value, sizes)
    return Samples(rows, weights_at(network, site, place.value, value, sizes, weights))


def derivatives(
    network: Network, place: Place, gradients: Array, like: Array, sizes: Sizes,
    weights: Array | None,
) -> Samples:  # fmt: skip
    """Derivatives by what a place's errors are of: ``(probes, n, samples, q)``, and weights.

    Args:
      network: the traced network.
      place: the place.
      gradients: by its value, probes first.
      like: an array of the value's shape.
      sizes: of the network's dimensions.
      weights: of the rows, or of their positions.
    """
    if place.read is not None:
        found = jax.vmap(functools.partial(results, place.read.frame))(gradients)
        return Samples(found, weights_of_results(network, place.read, like, weights))
    site, point = network.foldable[place.site or 0], place.value
    found = jax.vmap(lambda g: at_point(network, site, point, g, sizes))(gradients)
    return Samples(found, weights_at(network, site, point, like, sizes, weights))


def part(rows: Array, start: Array | None, size: int, axis: int = 0) -> Array:
    """Some repeats of ``(n, …)`` rows."""
    if start is None or size in (ALL, rows.shape[axis]):
        return rows
    return lax.dynamic_slice_in_dim(rows, start, size, axis)
