"""The normal form of a chain: the same function in the fewest parameters.

Only exact rewritings: products of adjacent linear maps where the product isn't larger,
linear units that stand alone moved into the next layer's bottleneck, linear units beside
a residual path absorbed by it.
"""

import numpy as np

from linjax.graph.layers import Layer, Layers


def normalise(layers: Layers, single: bool = True) -> Layers:
    """Rewrites a chain into normal form.

    Args:
      layers: the chain, its last layer being affine.
      single: whether the last depth holds one map; several can't share a bottleneck.
    """
    result = list(layers)
    for index, layer in enumerate(result[:-1]):
        follower = result[index + 1]
        into_head = index + 1 == len(result) - 1
        layer, follower = _absorb(_narrow_down(layer), follower)
        if layer.units == 0 and (single or not into_head):
            layer, follower = _hand_on(layer, follower)
        result[index], result[index + 1] = layer, follower
    result[-1] = _narrow_down(result[-1])
    return tuple(result)


def _absorb(layer: Layer, follower: Layer) -> tuple[Layer, Layer]:
    """Drops linear units that stand beside the path which carries all that they read."""
    if layer.linear is None or not layer.carry or follower.carry:
        return layer, follower  # a follower that hands on its features needs all of them
    k, r = layer.units, layer.linears

    def rows(matrix):
        carried = matrix[k + r :] + layer.linear @ matrix[k : k + r]
        return np.concatenate([matrix[:k], carried])

    if follower.down is not None:
        return layer._replace(linear=None), follower._replace(down=rows(follower.down))
    linear = None if follower.linear is None else rows(follower.linear)
    return layer._replace(linear=None), follower._replace(
        kernel=rows(follower.kernel), linear=linear
    )


def _hand_on(layer: Layer, follower: Layer) -> tuple[Layer, Layer]:
    """Moves a layer without units, which is linear, in front of the next layer."""
    if layer.linear is not None and not layer.carry:
        reach = layer.linear if layer.down is None else layer.down @ layer.linear
    elif layer.linear is None and layer.carry:
        if layer.down is None:
            return layer, follower
        reach = layer.down
    else:
        return layer, follower
    down = reach if follower.down is None else reach @ follower.down
    vanished = Layer(
        kernel=np.zeros((layer.reads, 0)),
        bias=np.zeros((0,)),
        carry=True,
    )
    return vanished, follower._replace(down=down)


def _narrow_down(layer: Layer) -> Layer:
    """Multiplies a bottleneck into the layer where that isn't larger."""
    if layer.down is None or layer.carry:
        return layer
    rows, width = layer.down.shape
    columns = layer.units + layer.linears
    if rows * columns > rows * width + width * columns:
        return layer
    return layer._replace(
        kernel=layer.down @ layer.kernel,
        linear=None if layer.linear is None else layer.down @ layer.linear,
        down=None,
    )
