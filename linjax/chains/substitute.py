"""Replacing the features that a layer reads by affine functions of other features.

If the old features are ``v_old = v_new T + t``, every layer behind can be rewritten so
that it reads ``v_new`` and computes the same. T is given as the function that pulls a
kernel's rows back, ``R ↦ T R``, since it is mostly the identity.
"""

from collections.abc import Callable

import numpy as np

from linjax.chains.layers import Array, Layer, Layers, replaced

Pull = Callable[[Array], Array]


def substitute(layers: Layers, index: int, pull: Pull, offset: Array) -> Layers:
    """Rewrites the layers from ``index`` on for new input features.

    Args:
      layers: a chain.
      index: the layer whose features are replaced.
      pull: maps ``(old, q)`` matrices to ``(new, q)``: ``R ↦ T R``.
      offset: ``(old,)``, the constant t.

    Returns:
      A chain that computes the same function of the new features.
    """
    layer = layers[index]
    if layer.down is not None:
        through = offset @ layer.down
        layer = layer._replace(
            down=pull(layer.down),
            bias=layer.bias + through @ layer.kernel,
            mates=tuple((kernel, bias + through @ kernel) for kernel, bias in layer.mates),
        )
        pull, offset = (lambda rows: rows), through
    else:
        layer = layer._replace(
            kernel=pull(layer.kernel),
            bias=layer.bias + offset @ layer.kernel,
            mates=tuple((pull(kernel), bias + offset @ kernel) for kernel, bias in layer.mates),
        )
    before = layers[index].linear
    moved = np.zeros(0) if before is None else offset @ before
    if before is not None and layer.down is None:
        layer = layer._replace(linear=pull(before))
    layers = replaced(layers, index, layer)
    if index + 1 == len(layers) or not (layer.residual or moved.any()):
        return layers
    own = layer.units + layer.linears
    carried = offset if layer.residual else np.zeros(0)

    def onward(rows: Array) -> Array:
        if not layer.residual:
            return rows
        return np.concatenate([rows[:own], pull(rows[own:])])

    shift = np.concatenate([np.zeros(layer.units), moved, carried])
    return substitute(layers, index + 1, onward, shift)


def keep_units(layer: Layer, kept: Array) -> Layer:
    """Restricts a layer to some of its units, given as indices or as a mask."""
    return layer._replace(
        kernel=layer.kernel[:, kept],
        bias=layer.bias[kept],
        unit_leaves=tuple(leaf[kept] for leaf in layer.unit_leaves),
        slopes=None if layer.slopes is None else tuple(s[kept] for s in layer.slopes),
        mates=tuple((kernel[:, kept], bias[kept]) for kernel, bias in layer.mates),
        origin=None if layer.origin is None else layer.origin[kept],
    )
