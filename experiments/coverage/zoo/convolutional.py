"""Convolutional classifiers in Flax Linen."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.coverage.zoo.registry import Built, linen, models, normal

Array = jax.Array


def norm() -> nn.BatchNorm:
    """Batch normalisation by the running statistics."""
    return nn.BatchNorm(use_running_average=True)


class Conv(nn.Module):
    """A convolution, batch normalisation and an activation."""

    width: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    activation: Callable | None = nn.relu

    @nn.compact
    def __call__(self, x: Array) -> Array:
        window, strides = (self.size, self.size), (self.stride, self.stride)
        conv = nn.Conv(self.width, window, strides, feature_group_count=self.groups, use_bias=False)
        x = norm()(conv(x))
        return x if self.activation is None else self.activation(x)


class Depthwise(nn.Module):
    """A convolution of each channel by itself, batch normalisation and an activation."""

    size: int = 3
    stride: int = 1
    activation: Callable | None = nn.relu

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        return Conv(width, self.size, self.stride, width, self.activation)(x)


class Classifier(nn.Module):
    """A stem, blocks, the mean over all places and a dense layer."""

    blocks: tuple[nn.Module, ...]
    stem: int = 16
    classes: int = 10

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.stem, 3)(x)
        for block in self.blocks:
            x = block(x)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class Basic(nn.Module):
    """The residual block of ResNet-18: two convolutions."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Conv(self.width, 3, self.stride)(x)
        y = Conv(self.width, 3, activation=None)(y)
        if x.shape != y.shape:
            x = Conv(self.width, 1, self.stride, activation=None)(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """The residual block of ResNet-50, or of ResNeXt where the middle one is grouped."""

    width: int
    stride: int = 1
    groups: int = 1
    expansion: int = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = Conv(self.width)(x)
        y = Conv(self.width, 3, self.stride, self.groups)(y)
        y = Conv(self.width * self.expansion, activation=None)(y)
        if x.shape != y.shape:
            x = Conv(self.width * self.expansion, 1, self.stride, activation=None)(x)
        return nn.relu(x + y)


class Preactivated(nn.Module):
    """The residual block of the second ResNet: normalisation and activation come first."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        strides = (self.stride, self.stride)
        y = nn.relu(norm()(x))
        if x.shape[-1] != self.width or self.stride > 1:
            x = nn.Conv(self.width, (1, 1), strides, use_bias=False)(y)
        y = nn.Conv(self.width, (3, 3), strides, use_bias=False)(y)
        y = nn.Conv(self.width, (3, 3), use_bias=False)(nn.relu(norm()(y)))
        return x + y


class Dense(nn.Module):
    """A block of DenseNet: each layer reads the concatenation of all before."""

    layers: int
    growth: int = 8

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.layers):
            y = nn.Conv(4 * self.growth, (1, 1), use_bias=False)(nn.relu(norm()(x)))
            y = nn.Conv(self.growth, (3, 3), use_bias=False)(nn.relu(norm()(y)))
            x = jnp.concatenate([x, y], -1)
        return x


class Transition(nn.Module):
    """What halves the channels and the places between two blocks of DenseNet."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(x.shape[-1] // 2, (1, 1), use_bias=False)(nn.relu(norm()(x)))
        return nn.avg_pool(x, (2, 2), (2, 2))


class ConvNeXtBlock(nn.Module):
    """Depthwise, LayerNorm, two dense layers with GELU, a scale."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        y = nn.LayerNorm()(nn.Conv(width, (7, 7), feature_group_count=width)(x))
        y = nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(y)))
        return x + y * self.param("scale", nn.initializers.ones, (width,))


class Downsampling(nn.Module):
    """LayerNorm and a convolution without overlap, between stages of ConvNeXt."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Conv(self.width, (2, 2), (2, 2))(nn.LayerNorm()(x))


class Flattening(nn.Module):
    """LeNet or VGG: convolutions, pooling, a flatten, dense layers."""

    widths: tuple[int, ...]
    activation: Callable = nn.relu

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.widths:
            x = self.activation(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        for width in (48, 32):
            x = self.activation(nn.Dense(width)(x))
        return nn.Dense(10)(x)


def classifier(*blocks: nn.Module, stem: int = 16) -> Built:
    """The classifier of these blocks, on small images."""
    return linen(Classifier(blocks, stem), normal(2, 16, 16, 3))


models(
    resnet18=lambda: classifier(Basic(16), Basic(32, 2), Basic(64, 2), Basic(64)),
    resnet50=lambda: classifier(Bottleneck(8), Bottleneck(8), Bottleneck(16, 2), Bottleneck(16)),
    resnext=lambda: classifier(
        Bottleneck(16, 1, 4, 2), Bottleneck(32, 2, 4, 2), Bottleneck(32, 1, 4, 2)
    ),
    resnet_v2=lambda: classifier(Preactivated(16), Preactivated(32, 2), Preactivated(32)),
    densenet=lambda: classifier(Dense(3), Transition(), Dense(3)),
    convnext=lambda: classifier(ConvNeXtBlock(), Downsampling(32), ConvNeXtBlock()),
    vgg=lambda: linen(Flattening((16, 24, 32)), normal(2, 16, 16, 3)),
    lenet_tanh=lambda: linen(Flattening((6, 16), nn.tanh), normal(2, 16, 16, 1)),
)
