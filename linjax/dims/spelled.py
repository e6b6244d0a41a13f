"""Linear coordinates in place of what is carried past layers.

A layer past which features are carried computes what one does whose linear coordinates are these
features, through an identity for a kernel: ``h W_residual = (h I) W_linear-rows``. So written,
what evidence and folds know of linear coordinates serves for residual paths and vanished layers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.carrying import Way, axis_of
from linjax.dims.network import Network
from linjax.dims.sites import Product, Site, features_of
from linjax.dims.sizes import Flat, Sizes, read_sizes
from linjax.errors import StructureError
from linjax.program.pytree import Path, join

Array = Any


def spelled(network: Network, flat: Flat) -> dict[Path, Array]:
    """Returns leaves of the same function in which nothing is carried past a layer.

    Args:
      network: the traced network.
      flat: its parameters.

    Raises:
      StructureError: if one kernel carries different features past a layer.
    """
    result = dict(flat)
    for past in _passing(network, read_sizes(network, flat)):
        _make(network, result, past)
        for reader in past.way.readers:
            _read(network, result, reader)
    return result


class _Past(NamedTuple):
    """A way past which features are carried: by product how many, beside linear coordinates."""

    way: Way
    widths: dict[Product, int]
    linear: int


def _passing(network: Network, sizes: Sizes) -> list[_Past]:
    """The ways past which something is carried."""
    found = []
    for way in network.ways:
        beside = sizes.ways.get(way.dim)
        if beside is not None and any(beside.carried):
            pairs = zip(way.carriers, beside.carried, strict=True)
            widths = {product: width for product, width in pairs if width}
            found.append(_Past(way, widths, beside.linear))
    return found


def _make(network: Network, flat: dict[Path, Array], past: _Past) -> None:
    """Puts identities beside the kernels that make a dimension."""
    way, linear = past.way, past.linear
    carrying = [product.leaf for product in past.widths]
    if len(set(carrying)) < len(carrying):
        raise StructureError(
            f"{join(network.paths[carrying[0] or 0])}: carries different features past a layer, "
            "which can't be folded further; fold the original instead"
        )
    start, total = linear, linear + sum(past.widths.values())
    own = {product.leaf: width for product, width in past.widths.items()}
    for leaf in {product.leaf: None for product in way.makers}:
        path, width = network.extra(leaf, "linear"), own.get(leaf, 0)
        if not width and path not in flat:
            continue
        made = axis_of(network.layout, leaf, way.dim, read=False)
        before = None if path not in flat else np.asarray(flat[path])
        rows = width if before is None else before.shape[1 - made]
        matrix = np.zeros((rows, total), _dtype(network, flat, leaf))
        if before is not None:
            matrix[:, :linear] = before if made == 1 else before.T
        matrix[:, start : start + width] += np.eye(rows, width, dtype=matrix.dtype)
        start += width
        given = network.extra(leaf, "linear_offset")
        if given in flat:
            flat[given] = jnp.pad(flat[given], (0, total - linear))
        flat[path] = jnp.asarray(matrix if made == 1 else matrix.T)


def _read(network: Network, flat: dict[Path, Array], reader: Product) -> None:
    """Joins a kernel's rows for what was carried with its others."""
    path, residual = network.paths[reader.leaf], network.extra(reader.leaf, "residual")
    if residual in flat:
        rows = [flat[p] for p in (path, residual) if p in flat]
        axis = network.layout.values[network.ref(reader.leaf)].read_axis
        flat[path] = jnp.concatenate(rows, axis)
        del flat[residual]


def multiplied(
    network: Network, flat: Flat, past: Mapping[int, tuple[Product, ...]]
) -> dict[Path, Array]:
    """Multiplies what makes the features of vanished layers into what reads them.

    Args:
      network: the traced network.
      flat: its parameters, spelled.
      past: of :func:`vanished`.
    """
    result = dict(flat)
    for way in network.ways:
        carrying = [
            own for own in past.get(way.dim, ()) if network.extra(own.leaf, "linear") in result
        ]
        given = [network.extra(own.leaf, "linear_offset") for own in carrying]
        if not carrying or any(path in result for path in given):
            continue  # a constant among the features is no multiple of them
        linear = np.concatenate([_matrix(network, result, way.dim, own) for own in carrying])
        for leaf in {reader.leaf for reader in way.readers}:
            down = network.extra(leaf, "down")
            both = (network.paths[leaf], network.extra(leaf, "linear"))
            for path in (down,) if down in result else both:
                if path in result:
                    axis = network.layout.values[network.ref(leaf)].read_axis
                    rows = np.moveaxis(np.asarray(result[path]), axis, 0)
                    new = np.moveaxis(linear @ rows.astype(linear.dtype), 0, axis)
                    result[path] = jnp.asarray(new.astype(rows.dtype))
        for own in carrying:
            path = network.extra(own.leaf, "linear")
            if len(way.carriers) == 1:
                del result[path]
            else:  # says what each of them reads
                made = axis_of(network.layout, own.leaf, way.dim, read=False)
                result[path] = jnp.take(result[path], jnp.arange(0), axis=made)
    return result


def _matrix(network: Network, flat: Flat, dim: int, product: Product) -> Array:
    """What makes linear coordinates, in float64: by features."""
    made = axis_of(network.layout, product.leaf, dim, read=False)
    linear = np.asarray(flat[network.extra(product.leaf, "linear")])
    return np.moveaxis(linear, made, 1).astype(np.float64)


def _dtype(network: Network, flat: Mapping[Path, Array], leaf: int) -> Any:
    path = network.paths[leaf]
    own = flat[path] if path in flat else network.layout.program.avals[network.ref(leaf)]
    return own.dtype


def readings(
    network: Network, past: Mapping[int, tuple[Product, ...]], site: Site
) -> list[tuple[Site, tuple[Product, ...]]]:
    """The products that read a site's coordinates, those behind vanished layers among them.

    Args:
      network: the traced network.
      past: of :func:`vanished`.
      site: the site.

    Returns:
      Sites whose coordinates are this one's, and their readers.
    """
    own = {reader.op: reader for reader in site.readers}
    found = []
    for dim, carriers in past.items():
        alone = len(carriers) == 1 and carriers[0].op in own
        if alone and features_of(network.layout, carriers[0])[0].dim == site.dim:
            del own[carriers[0].op]
            behind = (other for other in network.sites if other.dim == dim)
            found += [pair for other in behind for pair in readings(network, past, other)]
    return [(site, tuple(own.values())), *found]


def carriers(network: Network, flat: Flat) -> set[int]:
    """The products past whose results what they read is carried."""
    passing = _passing(network, read_sizes(network, flat))
    return {product.op for past in passing for product in past.widths}


def vanished(network: Network, flat: Flat) -> dict[int, tuple[Product, ...]]:
    """By dimension, the products that carry features past layers that make nothing themselves."""
    sizes = read_sizes(network, flat)
    return {
        past.way.dim: tuple(past.widths)
        for past in _passing(network, sizes)
        if not sizes.kept[past.way.dim] and not past.linear
    }
