"""What exact rewritings share: the rows that read a layer's features, as one matrix.

Behind a residual path, several layers read the same features.
"""

import numpy as np

from linjax.chains.layers import Array, Layer, Layers, replaced


def outgoing(layers: Layers, index: int) -> np.ndarray:
    """Returns the rows with which later layers read the features of ``layers[index]``.

    Args:
      layers: a chain.
      index: a layer but the last.

    Returns:
      ``(features, q)``; the columns are those of the next layer's bottleneck, or of its
      units and linear units, and of later layers as far as its features are carried on.
    """
    reader = layers[index + 1]
    if reader.down is not None:
        return np.asarray(reader.down)
    columns = [reader.kernels]
    if reader.linear is not None:
        columns.append(reader.linear)
    if reader.residual:
        columns.append(outgoing(layers, index + 1)[_own(reader) :])
    return np.concatenate(columns, axis=1)


def with_outgoing(layers: Layers, index: int, rows: Array) -> Layers:
    """Returns the chain in which the features of ``layers[index]`` are read by ``rows``.

    Args:
      layers: a chain; the number of its features at ``index`` may differ from ``rows``.
      index: a layer but the last.
      rows: ``(features, q)``, the columns being those of :func:`outgoing`.
    """
    reader = layers[index + 1]
    if reader.down is not None:
        return replaced(layers, index + 1, reader._replace(down=rows))
    ends = np.cumsum([reader.units] * (1 + len(reader.mates)) + [reader.linears])
    kernel, *others, linear, onward = np.split(rows, ends, axis=1)
    mates = tuple((own, bias) for own, (_, bias) in zip(others, reader.mates, strict=True))
    if reader.residual:
        own = outgoing(layers, index + 1)[: _own(reader)]
        layers = with_outgoing(layers, index + 1, np.concatenate([own, onward]))
    linear = None if reader.linear is None else linear
    return replaced(layers, index + 1, reader._replace(kernel=kernel, linear=linear, mates=mates))


def _own(layer: Layer) -> int:
    """Number of features that a layer makes itself, before those that it carries."""
    return layer.units + layer.linears


def in_float64(layers: Layers) -> Layers:
    """Returns the chain in float64, its units numbered by ``origin``."""

    def wide(array: Array | None) -> np.ndarray | None:
        return None if array is None else np.asarray(array).astype(np.float64)

    return tuple(
        layer._replace(
            mates=tuple((wide(kernel), wide(bias)) for kernel, bias in layer.mates),
            kernel=wide(layer.kernel),
            bias=wide(layer.bias),
            linear=wide(layer.linear),
            down=wide(layer.down),
            origin=np.arange(layer.units) if layer.origin is None else layer.origin,
        )
        for layer in layers
    )
