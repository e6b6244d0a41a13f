"""Encoders, and encoders with decoders, in Flax Linen."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.coverage.zoo.attention import (
    Attention,
    Feedforward,
    Gated,
    Layer,
    RMSNorm,
    sinusoids,
)
from experiments.coverage.zoo.registry import linen, models, normal, tokens

Array = jax.Array
WIDTH, HIDDEN, VOCABULARY = 32, 64, 64


class Translator(nn.Module):
    """The transformer of Flax's WMT example: one shared embedding, sines, padding masks."""

    layers: int = 2

    @nn.compact
    def __call__(self, source: Array, target: Array) -> Array:
        embed = nn.Embed(VOCABULARY, WIDTH)
        padding = source > 0
        x = embed(source) + sinusoids(source.shape[-1], WIDTH)
        for _ in range(self.layers):
            x = Layer(Attention(), Feedforward(HIDDEN, "relu"))(x, padding=padding)
        memory = nn.LayerNorm()(x)
        y = embed(target) + sinusoids(target.shape[-1], WIDTH)
        for _ in range(self.layers):
            layer = Layer(Attention(causal=True), Feedforward(HIDDEN, "relu"), Attention())
            y = layer(y, memory, padding)
        y = nn.LayerNorm()(y)
        return embed.attend(y / jnp.sqrt(WIDTH))


class T5(nn.Module):
    """Distances in buckets, no scale in the products, gated GELU, RMS norms without biases."""

    layers: int = 2

    @nn.compact
    def __call__(self, source: Array, target: Array) -> Array:
        embed = nn.Embed(VOCABULARY, WIDTH)
        x = embed(source)
        for k in range(self.layers):
            attention = Attention(buckets=8 * (k == 0), scaled=False)
            x = Layer(attention, Gated(HIDDEN, "gelu"), norm=RMSNorm)(x)
        memory, y = RMSNorm()(x), embed(target)
        for k in range(self.layers):
            attention = Attention(buckets=8 * (k == 0), scaled=False, causal=True)
            layer = Layer(attention, Gated(HIDDEN, "gelu"), Attention(scaled=False), norm=RMSNorm)
            y = layer(y, memory)
        return nn.Dense(VOCABULARY, use_bias=False)(RMSNorm()(y))


class Whisper(nn.Module):
    """Convolutions over a spectrogram, an encoder, a decoder with a tied head."""

    layers: int = 2

    @nn.compact
    def __call__(self, spectrogram: Array, words: Array) -> Array:
        x = nn.gelu(nn.Conv(WIDTH, (3,))(spectrogram))
        x = nn.gelu(nn.Conv(WIDTH, (3,), (2,))(x))
        x = x + sinusoids(*x.shape[-2:])
        for _ in range(self.layers):
            x = Layer(Attention(bias=True), Feedforward(HIDDEN))(x)
        memory, embed = nn.LayerNorm()(x), nn.Embed(VOCABULARY, WIDTH)
        places = self.param("positions", nn.initializers.normal(), (16, WIDTH))
        y = embed(words) + places[: words.shape[-1]]
        for _ in range(self.layers):
            layer = Layer(
                Attention(bias=True, causal=True), Feedforward(HIDDEN), Attention(bias=True)
            )
            y = layer(y, memory)
        return embed.attend(nn.LayerNorm()(y))


class Bert(nn.Module):
    """Norms behind the sums, a pooled first word, a classifier."""

    layers: int = 2

    @nn.compact
    def __call__(self, words: Array, kinds: Array) -> Array:
        x = nn.Embed(VOCABULARY, WIDTH)(words) + nn.Embed(2, WIDTH)(kinds)
        x = x + self.param("positions", nn.initializers.normal(), (16, WIDTH))[: x.shape[-2]]
        x = nn.LayerNorm()(x)
        for _ in range(self.layers):
            x = nn.LayerNorm()(x + Attention(bias=True)(x))
            x = nn.LayerNorm()(x + Feedforward(HIDDEN)(x))
        return nn.Dense(3)(nn.tanh(nn.Dense(WIDTH)(x[:, 0])))


class Towers(nn.Module):
    """Two texts through one encoder, compared by their cosine."""

    @nn.compact
    def __call__(self, left: Array, right: Array) -> Array:
        embed, layer = nn.Embed(VOCABULARY, WIDTH), Layer(Attention(), Feedforward(HIDDEN))
        first, second = nn.Dense(48), nn.Dense(24)

        def encode(words: Array) -> Array:
            y = second(nn.relu(first(layer(embed(words)).mean(-2))))
            return y / jnp.linalg.norm(y, axis=-1, keepdims=True)

        return jnp.sum(encode(left) * encode(right), -1)


def pair() -> tuple[Array, Array]:
    """Two short texts of different lengths; the first ends in padding."""
    return tokens(2, 10).at[0, 8:].set(0), tokens(2, 8, seed=2)


models(
    wmt=lambda: linen(Translator(), *pair()),
    t5=lambda: linen(T5(), *pair()),
    whisper=lambda: linen(Whisper(), normal(2, 16, 8), tokens(2, 8)),
    bert=lambda: linen(Bert(), tokens(2, 10), tokens(2, 10, vocabulary=2) * 0),
    siamese_towers=lambda: linen(Towers(), *pair()),
)
