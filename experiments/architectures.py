"""Convolutional networks and transformers, in Linen; rows of pixels become images inside."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.models import Network
from experiments.registry import NETWORKS

Array = jax.Array

plain_conv = functools.partial(nn.Conv, use_bias=False)


class CNN(nn.Module):
    """Convolutions with max pooling behind each, then two dense layers."""

    channels: Sequence[int]
    hidden: int
    classes: int

    @nn.compact
    def __call__(self, x: Array, learning: bool = False) -> Array:
        for width in self.channels:
            x = nn.max_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        return nn.Dense(self.classes)(x)


class VGG(nn.Module):
    """Pairs of convolutions with batch norm, max pooling between pairs, a mean, a dense head."""

    channels: Sequence[int]
    classes: int

    @nn.compact
    def __call__(self, x: Array, learning: bool = False) -> Array:
        for pair, width in enumerate(self.channels):
            x = nn.max_pool(x, (2, 2), (2, 2)) if pair else x
            for _ in range(2):
                x = plain_conv(width, (3, 3))(x)
                x = nn.relu(nn.BatchNorm(not learning, momentum=0.9)(x))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class ResNet(nn.Module):
    """Three stages of residual blocks, each with half the extent and twice the channels.

    Reference: He, Zhang, Ren and Sun, Deep residual learning, 2015, arXiv 1512.03385.
    """

    width: int
    blocks: int
    classes: int

    @nn.compact
    def __call__(self, x: Array, learning: bool = False) -> Array:
        norm = functools.partial(nn.BatchNorm, not learning, momentum=0.9)
        x = nn.relu(norm()(plain_conv(self.width, (3, 3))(x)))
        for stage, block in itertools.product(range(3), range(self.blocks)):
            width, stride = self.width << stage, 2 if stage and not block else 1
            y = nn.relu(norm()(plain_conv(width, (3, 3), strides=stride)(x)))
            y = norm()(plain_conv(width, (3, 3))(y))
            if x.shape != y.shape:
                x = plain_conv(width, (1, 1), strides=stride)(x)
            x = nn.relu(x + y)
        return nn.Dense(self.classes)(x.mean((1, 2)))


class Block(nn.Module):
    """Attention and a feed-forward network, each beside the stream of features.

    Attributes:
      heads: number of attention heads.
      hidden: units of the feed-forward network.
      gate: whether these are multiplied by the activation of others (SwiGLU).
      norm: normalisation in front of either.

    References: Vaswani et al., Attention is all you need, 2017, arXiv 1706.03762; Shazeer, GLU
    variants improve transformer, 2020, arXiv 2002.05202.
    """

    heads: int
    hidden: int
    gate: bool
    norm: Any

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        dense = functools.partial(nn.Dense, use_bias=not self.gate)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(self.norm()(x), mask=mask)
        v = self.norm()(x)
        h = dense(self.hidden, name="up")(v)
        h = nn.silu(dense(self.hidden, name="gate")(v)) * h if self.gate else nn.gelu(h)
        return x + dense(x.shape[-1], name="down")(h)


class Transformer(nn.Module):
    """Features with their places, blocks, a normalisation; ``config`` says how many."""

    config: Any
    gate: bool
    norm: Any

    @nn.compact
    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        mine, places = self.config, nn.initializers.normal(0.02)
        x = x + self.param("places", places, x.shape[-2:])
        for _ in range(mine.blocks):
            x = Block(mine.heads, mine.ffn, self.gate, self.norm)(x, mask)
        return self.norm()(x)


class ViT(nn.Module):
    """A vision transformer on square patches, averaged at the end.

    Reference: Dosovitskiy et al., An image is worth 16x16 words, 2020, arXiv 2010.11929.
    """

    config: Any
    classes: int

    @nn.compact
    def __call__(self, x: Array, learning: bool = False) -> Array:
        n, height, width, channels = x.shape
        p = self.config.patch
        x = x.reshape(n, height // p, p, width // p, p, channels).swapaxes(2, 3)
        x = nn.Dense(self.config.width)(x.reshape(n, -1, p * p * channels))
        x = Transformer(self.config, False, nn.LayerNorm)(x)
        return nn.Dense(self.classes)(x.mean(1))


class LM(nn.Module):
    """A decoder-only language model with gated feed-forward networks."""

    config: Any
    symbols: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        mask = nn.make_causal_mask(x)
        x = nn.Embed(self.symbols, self.config.width)(x.astype(jnp.int32))
        return nn.Dense(self.symbols)(Transformer(self.config, True, nn.RMSNorm)(x, mask))


@NETWORKS.add("cnn")
def cnn(config: Any, inputs: int, classes: int) -> Network:
    """Convolutions and two dense layers: ``image``, ``channels``, ``hidden`` of one width."""
    mine, (hidden,) = config.network, config.network.hidden
    return of_images(CNN(tuple(mine.channels), hidden, classes), mine)


@NETWORKS.add("vgg")
def vgg(config: Any, inputs: int, classes: int) -> Network:
    """Pairs of convolutions with batch norm: ``image``, ``channels``."""
    return of_images(VGG(tuple(config.network.channels), classes), config.network)


@NETWORKS.add("resnet")
def resnet(config: Any, inputs: int, classes: int) -> Network:
    """Residual blocks: ``image``, ``channels`` of one width, ``blocks`` a stage."""
    mine, (width,) = config.network, config.network.channels
    return of_images(ResNet(width, mine.blocks, classes), mine)


@NETWORKS.add("vit")
def vit(config: Any, inputs: int, classes: int) -> Network:
    """A vision transformer: ``image``, ``patch``, ``width``, ``heads``, ``ffn``, ``blocks``."""
    return of_images(ViT(config.network, classes), config.network)._replace(learn=None)


@NETWORKS.add("lm")
def lm(config: Any, inputs: int, classes: int) -> Network:
    """A language model on rows of ``inputs`` symbols out of ``classes``."""
    mine, x = config.network, np.zeros((1, inputs), np.int32)
    module = LM(mine, classes)
    return Network(module.apply, module.init(jax.random.key(mine.seed), x), title(mine))


def title(mine: Any) -> str:
    """A network in words."""
    fields = (f"{name} {value}" for name, value in mine.items() if name not in ("kind", "seed"))
    return f"{mine.kind}, {', '.join(fields)}"


def of_images(module: nn.Module, mine: Any) -> Network:
    """A module as pure functions of its variables; running statistics are among them.

    ``mine.augment`` says whether training flips images and shifts them by up to four pixels.
    """

    def apply(params: Any, x: Array) -> Any:
        return module.apply(params, x.reshape(-1, *mine.image))

    def learn(params: Any, x: Array, key: Array) -> tuple[Array, Any]:
        x = x.reshape(-1, *mine.image)
        x = augmented(x, key) if mine.augment else x
        logits, seen = module.apply(params, x, True, mutable=["batch_stats"])
        return logits, params | seen

    params = module.init(jax.random.key(mine.seed), np.zeros((1, *mine.image), np.float32))
    return Network(apply, params, title(mine), learn)


def augmented(x: Array, key: Array) -> Array:
    """Returns images flipped at random and shifted by up to four pixels."""
    flip, shift = jax.random.split(key)
    x = jnp.where(jax.random.bernoulli(flip, 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x)
    wide = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    starts = jax.random.randint(shift, (len(x), 2), 0, 9)
    cut = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), x.shape[1:]))
    return cut(wide, starts)
