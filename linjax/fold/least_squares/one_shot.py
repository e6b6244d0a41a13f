"""Folding in one shot: a pure function of the parameters and of second moments."""

from typing import NamedTuple

import numpy as np

from linjax.evidence.moments import Moments
from linjax.fold.least_squares.budget import CARRY, Shape
from linjax.fold.least_squares.features import (
    Features,
    Frame,
    along,
    block_rows,
    entering,
    leaving,
    side_by_side,
)
from linjax.fold.least_squares.refit import bottleneck, needs, refit, split
from linjax.fold.least_squares.surface import metric_root, principal_target
from linjax.graph.layers import Layer, Layers

Array = np.ndarray


def execute(layers: Layers, moments: Moments, data: Frame, shape: Shape) -> Layers:
    rows = block_rows(moments)
    original = along(layers, rows)
    zs = [
        entering(l, f) @ np.asarray(l.kernel, np.float64) for l, f in zip(layers, original)
    ]
    means = [data.mean_of(z) + np.asarray(l.bias, np.float64) for z, l in zip(zs, layers)]
    v = original[0]
    done = []
    last = len(layers) - 1
    for i, layer in enumerate(layers):
        kernel, _ = refit(data, v, zs[i])
        if i < last:
            h = Features(rows[i + 1])
            target = principal_target(data, zs[i + 1] @ metric_root(moments.sensitivity[i + 1]))
            choice = split(data, v, h, target, shape.units[i], shape.linears[i])
            carry = choice.linear is None
            new = Layer(kernel[:, choice.kept], means[i][choice.kept],
                        None if carry or not choice.linear.shape[1] else choice.linear, carry,
                        unit_leaves=tuple(leaf[choice.kept] for leaf in layer.unit_leaves))
            wanted = None
            if 0 < shape.necks[i] < v.width:
                wanted = needs(data, zs[i], h, new.kernel, choice)
            units = rows[i + 1][choice.kept]
        else:
            new = Layer(kernel, means[i])
            wanted = kernel @ metric_root(moments.sensitivity[i])
        if 0 < shape.necks[i] < v.width:
            new = bottleneck(new, data.within(v), wanted, shape.necks[i])
        inner = entering(new, v)
        new = new._replace(bias=new.bias - data.mean_of(inner) @ new.kernel)
        done.append(new)
        if i < last:
            v = leaving(new, v, units)
    return tuple(done)
