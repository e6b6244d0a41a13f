"""The normal form of a chain: the same function in the fewest parameters.

Only exact rewritings: products of adjacent linear maps where the product isn't larger,
linear units that stand alone moved into the next layer's bottleneck, linear units beside
a residual path absorbed by it, features that are always zero dropped.
"""

import numpy as np

from linjax.chains.layers import Array, Layer, Layers, replaced
from linjax.chains.substitute import substitute


def normalise(layers: Layers, single: bool = True) -> Layers:
    """Rewrites a chain into normal form.

    Args:
      layers: the chain, its last layer being affine.
      single: whether the last depth holds one map; several can't share a bottleneck.
    """
    layers = _without_unread(layers)
    for index in range(len(layers) - 1):
        layers = _absorb(_settle(layers, index), index)
        layers = replaced(layers, index, _narrow_down(layers[index]))
        into_head = index + 1 == len(layers) - 1
        if layers[index].units == 0 and (single or not into_head):
            layers = _hand_on(layers, index)
        layers = replaced(layers, index, _as_linear(layers[index]))
    last = layers[-1]
    if last.reads == 0:
        last = last._replace(kernel=np.zeros((0, last.units)), down=None)
    return (*layers[:-1], _narrow_down(last))


def _without_unread(layers: Layers) -> Layers:
    """Empties the layers in front of one that passes nothing on."""
    ends = [i for i, layer in enumerate(layers[:-1]) if layer.features == 0]
    if not ends:
        return layers
    kernel, bias = np.zeros((layers[0].reads, 0)), np.zeros(0)
    empty = [Layer(kernel, bias, origin=np.zeros(0, int))]
    later = Layer(np.zeros((0, 0)), bias, origin=np.zeros(0, int))
    empty += [later] * ends[-1]
    return (*empty, *layers[ends[-1] + 1 :])


def _settle(layers: Layers, index: int) -> Layers:
    """Reduces a layer that reads nothing to its constant units."""
    layer = layers[index]
    if layer.reads:
        return layers
    k, features = layer.units, layer.features
    mates = tuple((np.zeros((0, k)), bias) for _, bias in layer.mates)
    constant = layer._replace(
        kernel=np.zeros((0, k)), linear=None, residual=False, down=None, mates=mates
    )
    layers = replaced(layers, index, constant)
    return substitute(layers, index + 1, lambda rows: rows[:k], np.zeros(features))


def _absorb(layers: Layers, index: int) -> Layers:
    """Drops linear units that stand beside the path which carries all that they read."""
    layer = layers[index]
    if layer.linear is None or not layer.residual:
        return layers
    k, own, linear = layer.units, layer.units + layer.linears, layer.linear

    def pull(rows: Array) -> Array:
        return np.concatenate([rows[:k], rows[own:] + linear @ rows[k:own]])

    layers = replaced(layers, index, layer._replace(linear=None))
    return substitute(layers, index + 1, pull, np.zeros(own + linear.shape[0]))


def _hand_on(layers: Layers, index: int) -> Layers:
    """Moves a layer without units, which is linear, in front of the next layer."""
    layer, follower = layers[index], layers[index + 1]
    if layer.linear is not None and not layer.residual:
        reach = layer.linear if layer.down is None else layer.down @ layer.linear
    elif layer.residual and layer.down is not None:
        reach = layer.down
    else:
        return layers
    if follower.mates:
        return layers  # a gated layer's kernels share no bottleneck
    if follower.down is None:
        down = reach
    elif reach.shape[1] < follower.down.shape[1] and not follower.residual:
        down, follower = reach, _multiplied(follower)  # the narrower of two bottlenecks stays
    else:
        down = reach @ follower.down
    vanished = layer._replace(
        kernel=np.zeros((layer.reads, 0)), bias=np.zeros(0), linear=None, residual=True, down=None
    )
    return replaced(layers, index, vanished, follower._replace(down=down))


def _as_linear(layer: Layer) -> Layer:
    """Calls a bottleneck that all there is passes through linear units."""
    if layer.units or not layer.residual or layer.down is None:
        return layer
    nothing = np.zeros((layer.reads, 0))
    mates = tuple((nothing, bias) for _, bias in layer.mates)
    return layer._replace(kernel=nothing, linear=layer.down, residual=False, down=None, mates=mates)


def _narrow_down(layer: Layer) -> Layer:
    """Multiplies a bottleneck into the layer where that isn't larger."""
    if layer.down is None or layer.residual:
        return layer
    rows, width = layer.down.shape
    columns = layer.units + layer.linears
    return layer if rows * columns > (rows + columns) * width else _multiplied(layer)


def _multiplied(layer: Layer) -> Layer:
    """Multiplies a bottleneck into all that reads through it."""
    down = layer.down
    return layer._replace(
        kernel=down @ layer.kernel,
        mates=tuple((down @ kernel, bias) for kernel, bias in layer.mates),
        linear=None if layer.linear is None else down @ layer.linear,
        down=None,
    )
