"""A network that is being folded: its leaves, and how they change along a dimension."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.network import Network
from linjax.dims.sites import Site
from linjax.dims.sizes import read_sizes
from linjax.dims.span import Cut, transform
from linjax.dims.spelled import multiplied
from linjax.fold.engine.choose import Choice
from linjax.program import pytree

Array = np.ndarray


class Lacking(NamedTuple):
    """What a site's linear coordinates lack, since they have no bias: ``(points, n, m)`` each.

    Attributes:
      arriving: what they are too small by when they are read.
      given: what their readers' biases have been given for it.
    """

    arriving: Array
    given: Array

    @property
    def known(self) -> "Lacking":
        """The same where a choice was made on what arrives."""
        return self._replace(arriving=0.0 * self.arriving)


class Written(NamedTuple):
    """A network that is being folded.

    Attributes:
      flat: its leaves, on the host.
      sizes: of all dimensions, linear coordinates counted where they are read.
      shifts: by product, what a fold has added to its result so far, along the kernel's axes.
      kept: sizes without linear coordinates, where leaves have entries for the others alone.
      lacking: by dimension, of linear coordinates that there were before.
    """

    flat: dict[Any, Array]
    sizes: dict[int, int]
    shifts: dict[int, Array]
    kept: dict[int, int]
    lacking: dict[int, Lacking]


def begun(network: Network, flat: dict[Any, Array]) -> Written:
    """A network none of whose sites has been folded."""
    host = {
        path: np.asarray(leaf) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) else leaf
        for path, leaf in flat.items()
    }
    sizes = read_sizes(network, flat)
    return Written(host, {dim: sizes.all(dim) for dim in sizes.kept}, {}, dict(sizes.kept), {})


def finished(flat: Mapping[Any, Array], params: Any) -> Any:
    """Returns leaves as a pytree on the device, without those that have no entries left."""
    kept = {
        path: pytree.on_device(x, x.dtype) if isinstance(x, np.ndarray) else x
        for path, x in flat.items()
        if np.size(x)
    }
    return pytree.unflatten(kept, like=params)


def finished_past(
    network: Network, flat: Mapping[Any, Array], params: Any, past: Mapping[int, Any]
) -> Any:
    """The same where leaves were spelled, so that layers vanish again.

    Args:
      network: the traced network.
      flat: its leaves, spelled and folded.
      params: the pytree that they were.
      past: its vanished layers, see :func:`~linjax.dims.spelled.vanished`.
    """
    small = pytree.flatten(finished(flat, params))
    return pytree.unflatten(multiplied(network, small, past), like=params)


def made_by(site: Site, choice: Choice, leaf: int | None) -> Choice:
    """A choice as a leaf that makes the coordinates sees it: keys get the queries' inverse."""
    if choice.basis is None or leaf not in site.opposite:
        return choice
    return choice._replace(basis=np.swapaxes(choice.decode[0], -1, -2))


def along(
    network: Network, now: Written, site: Site, leaf: int, value: Array, change: Any
) -> Array:
    spans = network.layout.leaves[leaf]
    read = network.layout.values[network.ref(leaf)].read

    def size(dim: int) -> int:
        return now.sizes[dim] if dim in read else now.kept[dim]

    return transform(value, spans, Cut(site.dim, site.beside, size, change))


def mixing(site: Site, matrices: Array) -> Any:
    """Multiplies by a matrix for each repeat."""

    def change(x: Array) -> Array:
        front = x.shape[: len(site.beside)]
        count = math.prod(x.shape[len(front) : -1])  # nothing may be left of the coordinates
        rows = x.reshape(matrices.shape[0], count, x.shape[-1])
        mixed = np.empty((*rows.shape[:2], matrices.shape[-1]), x.dtype)
        wide = np.complex128 if np.iscomplexobj(x) else np.float64
        for own, matrix, found in zip(rows, matrices, mixed, strict=True):
            found[:] = own.astype(wide) @ matrix
        return mixed.reshape(*front, *x.shape[len(front) : -1], mixed.shape[-1])

    return change


def taking(kept: Array, repeats: int) -> Any:
    """Takes the coordinates of each repeat."""

    def change(x: Array) -> Array:
        front = x.shape[:repeats]
        count = math.prod(x.shape[repeats:-1])  # as in mixing
        rows = x.reshape(kept.shape[0], count, x.shape[-1])
        index = np.broadcast_to(kept[:, None, :], (*rows.shape[:2], kept.shape[-1]))
        taken = np.take_along_axis(rows, index, axis=-1)
        return taken.reshape(*front, *x.shape[repeats:-1], kept.shape[-1])

    return change


def narrowing(choice: Choice) -> Any:
    """Narrows arrays of JAX as a choice does: by a basis, or by taking coordinates."""

    def change(x: Any) -> Any:
        front = x.shape[: x.ndim - 1]
        if choice.basis is not None:
            basis = jnp.asarray(choice.basis, x.dtype)
            rows = x.reshape(len(basis), math.prod(front) // len(basis), x.shape[-1])
            return (rows @ basis).reshape(*front, basis.shape[-1])
        kept = choice.kept
        rows = x.reshape(len(kept), math.prod(front) // len(kept), x.shape[-1])
        index = jnp.broadcast_to(kept[:, None, :], (*rows.shape[:2], kept.shape[-1]))
        return jnp.take_along_axis(rows, index, axis=-1).reshape(*front, kept.shape[-1])

    return change
