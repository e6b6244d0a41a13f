"""Layers made as wide as they were, by units that nothing reads: one program serves all widths.

Compiling takes longer than running a small network, and every new width is a new program.
"""

import numpy as np

from linjax.graph.layers import Layer, Layers

Array = np.ndarray

LIMIT = 512
"""Units of a layer from which running it takes longer than compiling."""


def recurring(width: int) -> int:
    """Returns the next power of two, or the width itself where that would be too wide."""
    return width if width > LIMIT or width == 0 else 1 << (width - 1).bit_length()


def padded(own: Layers, traced: Layers) -> tuple[Layers, list[Array]]:
    """Widens the layers in front of a folded chain.

    Args:
      own: folded layers.
      traced: all layers before folding.

    Returns:
      Layers that compute the same features among others, and for every layer, and behind the
      last one, the places of its features among them.
    """
    places, wide = [np.arange(traced[0].reads)], []
    reads = traced[0].reads
    for layer, whole in zip(own, traced, strict=False):
        new, place = _wide(layer, whole, reads, places[-1])
        wide.append(new)
        places.append(place)
        reads = new.features
    return tuple(wide), places


def _wide(layer: Layer, whole: Layer, reads: int, place: Array) -> tuple[Layer, Array]:
    """A layer that reads some places of so many features, and the places of what it passes on."""
    down = None
    if layer.down is not None:
        down = _spread(layer.down, (reads, recurring(layer.down.shape[1])), place)
        reads, place = down.shape[1], np.arange(layer.down.shape[1])
    # The last unit stands for those that are missing: its values are finite where units are.
    units = whole.units if layer.units > 0 and whole.units <= LIMIT else layer.units
    again = np.minimum(np.arange(units), layer.units - 1)

    def kernel(narrow: Array) -> Array:
        return _spread(narrow[:, again], (reads, units), place)

    linear = layer.linear
    if linear is not None:
        linear = _spread(linear, (reads, recurring(layer.linears)), place)
    linears = 0 if linear is None else linear.shape[1]
    new = layer._replace(
        kernel=kernel(layer.kernel),
        bias=layer.bias[again],
        linear=linear,
        down=down,
        unit_leaves=tuple(leaf[again] for leaf in layer.unit_leaves),
        slopes=None,
        mates=tuple((kernel(k), b[again]) for k, b in layer.mates),
        origin=None,
    )
    parts = [np.arange(layer.units), units + np.arange(layer.linears)]
    if layer.carry:
        parts.append(units + linears + place)
    return new, np.concatenate(parts)


def _spread(matrix: Array, shape: tuple[int, int], rows: Array) -> Array:
    """A matrix in some rows, and the first columns, of a larger one of zeros."""
    wide = np.zeros(shape)
    wide[rows, : matrix.shape[1]] = matrix
    return wide
