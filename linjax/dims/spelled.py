"""Linear coordinates in place of what is carried past layers.

A layer past which features are carried computes what one does whose linear coordinates are these
features, through an identity for a kernel: ``h W_residual = (h I) W_linear-rows``. So written,
what evidence and folds know of linear coordinates serves for residual paths and vanished layers.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.dims.carrying import Way, axis_of
from linjax.dims.network import Network
from linjax.dims.sites import Product, Site
from linjax.dims.sizes import Flat, read_sizes
from linjax.dims.span import Span
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
    sizes, result = read_sizes(network, flat), dict(flat)
    for way in network.ways:
        beside = sizes.ways.get(way.dim)
        if beside is None or not any(beside.carried):
            continue
        widths = dict(zip(way.carriers, beside.carried, strict=True))
        _make(network, result, way, widths, beside.linear)
        for reader in way.readers:
            _read(network, result, reader)
    return result


def _make(
    network: Network, flat: dict[Path, Array], way: Way, widths: Mapping[Product, int], linear: int
) -> None:
    """Puts identities beside the kernels that make a dimension."""
    carrying = [product.leaf for product, width in widths.items() if width]
    if len(set(carrying)) < len(carrying):
        raise StructureError(
            f"{join(network.paths[carrying[0] or 0])}: carries different features past a layer, "
            "which can't be folded further; fold the original instead"
        )
    start, total = linear, linear + sum(widths.values())
    own = {product.leaf: width for product, width in widths.items() if width}
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
        flat[path] = jnp.asarray(matrix if made == 1 else matrix.T)


def _read(network: Network, flat: dict[Path, Array], reader: Product) -> None:
    """Joins a kernel's rows for what was carried with its others."""
    path, residual = network.paths[reader.leaf], network.extra(reader.leaf, "residual")
    if residual in flat:
        rows = [flat[p] for p in (path, residual) if p in flat]
        flat[path] = jnp.concatenate(rows, _read_axis(network, reader.leaf))
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
        if not carrying:
            continue
        linear = np.concatenate([_matrix(network, result, way.dim, own) for own in carrying])
        for leaf in {reader.leaf for reader in way.readers}:
            down = network.extra(leaf, "down")
            both = (network.paths[leaf], network.extra(leaf, "linear"))
            for path in (down,) if down in result else both:
                if path in result:
                    axis = _read_axis(network, leaf)
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


def _read_axis(network: Network, leaf: int) -> int:
    """The axis of a matrix along which it reads."""
    read = network.layout.values[network.ref(leaf)].read
    spans = network.layout.leaves[leaf]
    return next(n for n, span in enumerate(spans) if read & set(span.dims()))


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
        if alone and features_of(network, carriers[0])[0].dim == site.dim:
            del own[carriers[0].op]
            behind = (other for other in network.sites if other.dim == dim)
            found += [pair for other in behind for pair in readings(network, past, other)]
    return [(site, tuple(own.values())), *found]


def features_of(network: Network, product: Product) -> list[Span]:
    """The axes of what a matrix reads that it sums over."""
    op = network.layout.makers[product.op]
    (contract, _) = op.params["dimension_numbers"]
    spans = network.layout.operand(op, product.data).spans
    return [spans[n] for n in contract[product.data]]


def carriers(network: Network, flat: Flat) -> set[int]:
    """The products past whose results what they read is carried."""
    ways = read_sizes(network, flat).ways
    return {
        product.op
        for way in network.ways
        if way.dim in ways
        for product, width in zip(way.carriers, ways[way.dim].carried, strict=True)
        if width
    }


def vanished(network: Network, flat: Flat) -> dict[int, tuple[Product, ...]]:
    """By dimension, the products that carry features past layers that make nothing themselves."""
    sizes = read_sizes(network, flat)
    found = {}
    for way in network.ways:
        beside = sizes.ways.get(way.dim)
        if beside is not None and not sizes.kept[way.dim] and not beside.linear:
            pairs = zip(way.carriers, beside.carried, strict=True)
            found[way.dim] = tuple(product for product, width in pairs if width)
    return found
