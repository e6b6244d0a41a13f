"""Random chains with everything that a folded layer may hold, and their evaluation."""

import numpy as np

from linjax.chains.layers import Layer, Layers


def random_chain(rng: np.random.Generator, depth: int = 4, plain: bool = False) -> Layers:
    """A chain of random widths; unless ``plain``, with linear units, carries, bottlenecks."""
    layers, reads = [], int(rng.integers(2, 6))
    for index in range(depth):
        last = index == depth - 1
        down = None
        if not plain and index and rng.random() < 0.3:
            down = rng.normal(size=(reads, int(rng.integers(1, reads + 1))))
        inner = reads if down is None else down.shape[1]
        units = int(rng.integers(2, 8))
        linear = None
        if not plain and not last and rng.random() < 0.4:
            linear = rng.normal(size=(inner, int(rng.integers(1, 4))))
        residual = bool(not plain and not last and rng.random() < 0.4)
        kernel, bias = rng.normal(size=(inner, units)), rng.normal(size=units)
        layers.append(Layer(kernel, bias, linear=linear, residual=residual, down=down))
        reads = layers[-1].features
    return tuple(layers)


def forward(layers: Layers, slopes, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Outputs and the sites' pre-activations, in float64."""
    v, seen = np.asarray(x, np.float64), []
    for layer, pair in zip(layers[:-1], slopes, strict=True):
        v = v if layer.down is None else v @ layer.down
        z = v @ np.asarray(layer.kernel, np.float64) + layer.bias
        seen.append(z)
        parts = [np.where(z < 0, pair[0], pair[1]) * z]
        if layer.linear is not None:
            parts.append(v @ layer.linear)
        if layer.residual:
            parts.append(v)
        v = np.concatenate(parts, axis=1)
    head = layers[-1]
    v = v if head.down is None else v @ head.down
    return v @ np.asarray(head.kernel, np.float64) + head.bias, seen


def size(layers: Layers) -> int:
    """Number of parameters."""
    return sum(
        int(np.size(a))
        for layer in layers
        for a in (layer.kernel, layer.bias, layer.linear, layer.down)
        if a is not None
    )
