"""Vision transformers and mixers in Flax Linen."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.coverage.zoo.attention import Attention, Feedforward, Layer
from experiments.coverage.zoo.registry import linen, models, normal, tokens

Array = jax.Array
WIDTH, HIDDEN = 32, 64


def layer(scaled: bool = False) -> Layer:
    """Attention and two dense layers."""
    return Layer(Attention(bias=True), Feedforward(HIDDEN), scaled=scaled)


class ViT(nn.Module):
    """Patches by a convolution, a word for the class, learned positions.

    Attributes:
      stem: channels of convolutions with group norms in front (the hybrid); none where 0.
      scaled: whether every layer's result is scaled before it is added.
      pooled: whether the mean over all patches is classified instead of the first word.
    """

    stem: int = 0
    scaled: bool = False
    pooled: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.stem:
            x = nn.relu(nn.GroupNorm(4)(nn.Conv(self.stem, (3, 3), use_bias=False)(x)))
            y = nn.relu(nn.GroupNorm(4)(nn.Conv(self.stem, (3, 3), use_bias=False)(x)))
            x = nn.relu(x + nn.GroupNorm(4)(nn.Conv(self.stem, (1, 1), use_bias=False)(y)))
        x = nn.Conv(WIDTH, (4, 4), (4, 4))(x)
        x = x.reshape(len(x), -1, WIDTH)
        if not self.pooled:
            word = self.param("class_word", nn.initializers.normal(), (1, 1, WIDTH))
            x = jnp.concatenate([jnp.broadcast_to(word, (len(x), 1, WIDTH)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(), (1, x.shape[1], WIDTH))
        for _ in range(2):
            x = layer(self.scaled)(x)
        x = nn.LayerNorm()(x)
        return nn.Dense(10)(x.mean(1) if self.pooled else x[:, 0])


class Mixer(nn.Module):
    """MLP-Mixer: dense layers over the places and over the channels by turns."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Conv(WIDTH, (4, 4), (4, 4))(x)
        x = x.reshape(len(x), -1, WIDTH)
        for _ in range(2):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            x = x + Feedforward(24)(y).swapaxes(1, 2)
            x = x + Feedforward(HIDDEN)(nn.LayerNorm()(x))
        return nn.Dense(10)(nn.LayerNorm()(x).mean(1))


class Windows(nn.Module):
    """A Swin block: attention within windows, which the second of two shifts by half."""

    window: int = 4
    shift: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, side, _, width = x.shape
        w, count = self.window, x.shape[1] // self.window
        y = nn.LayerNorm()(x)
        if self.shift:
            y = jnp.roll(y, (-self.shift, -self.shift), (1, 2))
        y = y.reshape(batch, count, w, count, w, width).swapaxes(2, 3)
        y = y.reshape(batch, count * count, w * w, width)
        y = Attention(bias=True, buckets=8)(y)
        y = y.reshape(batch, count, count, w, w, width).swapaxes(2, 3)
        y = y.reshape(batch, side, side, width)
        if self.shift:
            y = jnp.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + Feedforward(2 * width)(nn.LayerNorm()(x))


class Swin(nn.Module):
    """Two stages of windows, four patches merged into one between them."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.LayerNorm()(nn.Conv(WIDTH, (2, 2), (2, 2))(x))
        x = Windows(shift=2)(Windows()(x))
        corners = [x[:, i::2, j::2] for j in range(2) for i in range(2)]
        x = nn.LayerNorm()(jnp.concatenate(corners, -1))
        x = nn.Dense(48, use_bias=False)(x)
        x = Windows(2)(x)
        return nn.Dense(10)(nn.LayerNorm()(x).mean((1, 2)))


class PatchConv(nn.Module):
    """ConvMixer: depthwise convolutions beside the stream, 1×1 convolutions on it."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def norm() -> nn.BatchNorm:
            return nn.BatchNorm(use_running_average=True)

        x = norm()(nn.gelu(nn.Conv(WIDTH, (2, 2), (2, 2))(x)))
        for _ in range(2):
            x = x + norm()(nn.gelu(nn.Conv(WIDTH, (5, 5), feature_group_count=WIDTH)(x)))
            x = norm()(nn.gelu(nn.Conv(WIDTH, (1, 1))(x)))
        return nn.Dense(10)(x.mean((1, 2)))


class Contrastive(nn.Module):
    """CLIP: a tower for pictures, a tower for words, all pairs compared."""

    @nn.compact
    def __call__(self, pictures: Array, words: Array) -> Array:
        x = nn.Conv(WIDTH, (4, 4), (4, 4))(pictures).reshape(len(pictures), -1, WIDTH)
        y = nn.Embed(64, WIDTH)(words)
        ends = []
        for tower in (x, y):
            for _ in range(2):
                tower = layer()(tower)
            end = nn.Dense(24, use_bias=False)(nn.LayerNorm()(tower)[:, -1])
            ends.append(end / jnp.linalg.norm(end, axis=-1, keepdims=True))
        scale = self.param("temperature", nn.initializers.ones, ())
        return jnp.exp(scale) * ends[0] @ ends[1].T


class Denoiser(nn.Module):
    """A diffusion transformer: a time's dense layer shifts and scales every norm."""

    @nn.compact
    def __call__(self, x: Array, time: Array) -> Array:
        rates = np.exp(-np.arange(8) / 2).astype(np.float32)
        angles = time[:, None] * rates
        c = nn.Dense(WIDTH)(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1))
        c = nn.silu(nn.Dense(WIDTH)(nn.silu(c)))
        x = nn.Dense(WIDTH)(x)
        for _ in range(2):
            for layer in (Attention(bias=True), Feedforward(HIDDEN)):
                shift, scale, gate = jnp.split(nn.Dense(3 * WIDTH)(c)[:, None], 3, -1)
                y = nn.LayerNorm(use_bias=False, use_scale=False)(x)
                x = x + gate * layer(y * (1 + scale) + shift)
        return nn.Dense(12)(nn.LayerNorm()(x))


PICTURES = (2, 16, 16, 3)


models(
    vit=lambda: linen(ViT(), normal(*PICTURES)),
    vit_scaled_pooled=lambda: linen(ViT(scaled=True, pooled=True), normal(*PICTURES)),
    vit_hybrid=lambda: linen(ViT(stem=16), normal(*PICTURES)),
    mlp_mixer=lambda: linen(Mixer(), normal(*PICTURES)),
    swin=lambda: linen(Swin(), normal(*PICTURES)),
    convmixer=lambda: linen(PatchConv(), normal(*PICTURES)),
    clip=lambda: linen(Contrastive(), normal(*PICTURES), tokens(2, 8)),
    diffusion_transformer=lambda: linen(Denoiser(), normal(2, 16, 12), jnp.asarray([3.0, 70.0])),
)
