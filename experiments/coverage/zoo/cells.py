"""Classifiers of branching, gated and separable convolutions in Flax Linen."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.coverage.zoo.convolutional import Conv, Depthwise, classifier
from experiments.coverage.zoo.registry import models

Array = jax.Array


class Inverted(nn.Module):
    """The block of MobileNetV2, with a squeeze-and-excitation gate."""

    width: int
    stride: int = 1
    expansion: int = 4
    gated: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Conv(x.shape[-1] * self.expansion, activation=nn.relu6)(x)
        y = Depthwise(3, self.stride, nn.relu6)(y)
        if self.gated:
            squeezed = nn.relu(nn.Dense(y.shape[-1] // 4)(y.mean((1, 2), keepdims=True)))
            y = y * nn.sigmoid(nn.Dense(y.shape[-1])(squeezed))
        y = Conv(self.width, activation=None)(y)
        return x + y if x.shape == y.shape else y


class Shuffle(nn.Module):
    """The unit of ShuffleNet: half of the channels pass, then both halves are interleaved."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        passed, y = jnp.split(x, 2, -1)
        width = y.shape[-1]
        y = Conv(width)(Depthwise(activation=None)(Conv(width)(y)))
        y = jnp.stack([passed, y], -2)  # (…, half, channel)
        return y.swapaxes(-1, -2).reshape(x.shape)


class Inception(nn.Module):
    """Four branches of different windows, concatenated."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        w = self.width
        pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME")
        branches = [Conv(w)(x), Conv(w, 3)(Conv(w)(x)), Conv(w // 2, 5)(Conv(w // 4)(x))]
        return jnp.concatenate([*branches, Conv(w // 2)(pooled)], -1)


class Separable(nn.Module):
    """The block of Xception: separable convolutions beside a projection."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x
        for _ in range(2):
            y = Depthwise(activation=None)(nn.relu(y))
            y = Conv(self.width, activation=None)(y)
        y = nn.max_pool(y, (3, 3), (2, 2), "SAME")
        return y + Conv(self.width, 1, 2, activation=None)(x)


class Fire(nn.Module):
    """The module of SqueezeNet: a squeeze, and two expansions side by side."""

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(nn.Conv(self.squeeze, (1, 1))(x))
        sides = [nn.relu(nn.Conv(self.expand, (k, k))(x)) for k in (1, 3)]
        return jnp.concatenate(sides, -1)


class Cell(nn.Module):
    """A cell like NASNet's: pairs of operations on two inputs are added, then concatenated."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        now, before = Conv(self.width)(nn.relu(x)), Conv(self.width)(x)

        def separable(y: Array, size: int) -> Array:
            return Conv(self.width, activation=None)(Depthwise(size, activation=None)(nn.relu(y)))

        pooled = nn.avg_pool(now, (3, 3), (1, 1), "SAME")
        sums = [
            separable(now, 3) + now,
            separable(before, 5) + separable(now, 3),
            pooled + before,
            separable(before, 3) + pooled,
        ]
        return jnp.concatenate([before, *sums], -1)


models(
    mobilenet_v2=lambda: classifier(Inverted(16, 2, gated=False), Inverted(16, gated=False)),
    mobilenet_v2_se=lambda: classifier(Inverted(16), Inverted(24, 2), Inverted(24)),
    shufflenet=lambda: classifier(Shuffle(), Shuffle(), Conv(48), stem=24),
    inception=lambda: classifier(Inception(16), Inception(24)),
    xception=lambda: classifier(Separable(24), Separable(32)),
    squeezenet=lambda: classifier(Fire(8, 24), Fire(12, 32)),
    nasnet_cell=lambda: classifier(Cell(12), Cell(16)),
)
