"""Transformers that attend to less, or to other things, than one text, in Flax Linen."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.coverage.zoo.attention import Attention, Feedforward, Gated, Layer, RMSNorm
from experiments.coverage.zoo.registry import linen, models, normal, tokens

Array = jax.Array
WIDTH, HIDDEN = 32, 64


def layer(x: Array, memory: Array | None = None) -> Array:
    """Attention, to something else where it is given, and two dense layers."""
    return Layer(Attention(bias=True), Feedforward(HIDDEN))(x, memory)


class Cached(nn.Module):
    """One word is decoded: its key and value go into a cache that is read as a whole."""

    heads: int = 4
    groups: int = 2
    size: int = 8

    @nn.compact
    def __call__(
        self, word: Array, place: Array, keys: Array, values: Array
    ) -> tuple[Array, Array, Array]:
        embed = nn.Embed(64, WIDTH)
        x = embed(word)
        new_keys, new_values = [], []
        for k in range(len(keys)):
            y = RMSNorm()(x)
            q = nn.DenseGeneral((self.heads, self.size), use_bias=False)(y)
            here, content = (
                nn.DenseGeneral((self.groups, self.size), use_bias=False)(y) for _ in range(2)
            )
            write = jax.lax.dynamic_update_slice
            all_ = write(keys[k], here[:, None], (0, place, 0, 0))
            every = write(values[k], content[:, None], (0, place, 0, 0))
            q = q.reshape(len(q), self.groups, -1, self.size)
            logits = jnp.einsum("bgrd,bkgd->bgrk", q, all_) / np.sqrt(self.size)
            logits = jnp.where(np.arange(keys.shape[2]) <= place, logits, -1e9)
            mixed = jnp.einsum("bgrk,bkgd->bgrd", nn.softmax(logits), every)
            x = x + nn.Dense(WIDTH, use_bias=False)(mixed.reshape(len(x), -1))
            x = x + Gated(HIDDEN)(RMSNorm()(x))
            new_keys.append(all_)
            new_values.append(every)
        return embed.attend(RMSNorm()(x)), jnp.stack(new_keys), jnp.stack(new_values)


class Masked(nn.Module):
    """A masked autoencoder: only some patches are encoded, a learned word stands for the rest."""

    narrow: int = 24

    @nn.compact
    def __call__(self, patches: Array, order: Array) -> Array:
        count, seen = patches.shape[1], patches.shape[1] // 4
        places = self.param("positions", nn.initializers.normal(), (1, count, WIDTH))
        x = nn.Dense(WIDTH)(patches) + places
        x = jnp.take_along_axis(x, order[:, :seen, None], 1)
        for _ in range(2):
            x = layer(x)
        x = nn.Dense(self.narrow)(nn.LayerNorm()(x))
        word = self.param("mask_word", nn.initializers.normal(), (1, 1, self.narrow))
        rest = jnp.broadcast_to(word, (len(x), count - seen, self.narrow))
        x = jnp.concatenate([x, rest], 1)
        x = jnp.take_along_axis(x, jnp.argsort(order)[..., None], 1)
        x = x + self.param("decoder_positions", nn.initializers.normal(), (1, count, self.narrow))
        return nn.Dense(patches.shape[-1])(nn.LayerNorm()(layer(x)))


class Detector(nn.Module):
    """DETR: convolutions, an encoder over places, learned queries, classes and boxes."""

    @nn.compact
    def __call__(self, pictures: Array) -> tuple[Array, Array]:
        x = nn.relu(nn.Conv(16, (3, 3), (2, 2))(pictures))
        x = nn.Conv(WIDTH, (3, 3), (2, 2))(x).reshape(len(pictures), -1, WIDTH)
        x = layer(x + self.param("positions", nn.initializers.normal(), (1, x.shape[1], WIDTH)))
        queries = self.param("queries", nn.initializers.normal(), (5, WIDTH))
        y = jnp.broadcast_to(queries, (len(x), 5, WIDTH))
        for _ in range(2):
            y = layer(layer(y), x)
        box = y
        for _ in range(2):
            box = nn.relu(nn.Dense(24)(box))
        return nn.Dense(7)(y), nn.sigmoid(nn.Dense(4)(box))


class Perceiver(nn.Module):
    """A few learned latents read a long input, and are read by learned outputs."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def latents(name: str, count: int, width: int) -> Array:
            table = self.param(name, nn.initializers.normal(), (count, width))
            return jnp.broadcast_to(table, (len(x), count, width))

        x = nn.LayerNorm()(nn.Dense(20)(x))
        z = layer(latents("latents", 6, WIDTH), x)
        for _ in range(2):
            z = layer(z)
        return nn.Dense(5)(layer(latents("outputs", 3, 24), z))


class Conformer(nn.Module):
    """Half feed-forward steps around attention and a gated depthwise convolution, for speech."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(WIDTH)(x)
        for _ in range(2):
            x = x + 0.5 * Feedforward(HIDDEN, "silu")(nn.LayerNorm()(x))
            x = x + Attention(bias=True)(nn.LayerNorm()(x))
            a, b = jnp.split(nn.Dense(2 * WIDTH)(nn.LayerNorm()(x)), 2, -1)
            y = nn.Conv(WIDTH, (5,), feature_group_count=WIDTH)(a * nn.sigmoid(b))
            y = nn.silu(nn.BatchNorm(use_running_average=True)(y))
            x = x + nn.Dense(WIDTH)(y)
            x = x + 0.5 * Feedforward(HIDDEN, "silu")(nn.LayerNorm()(x))
            x = nn.LayerNorm()(x)
        return nn.log_softmax(nn.Dense(12)(x))


class Latent(nn.Module):
    """DeepSeek's attention: keys and values come from one narrow code."""

    heads: int = 4
    size: int = 8
    code: int = 12

    @nn.compact
    def __call__(self, x: Array) -> Array:
        q = nn.DenseGeneral((self.heads, self.size), use_bias=False, name="query")(x)
        narrow = RMSNorm()(nn.Dense(self.code, use_bias=False, name="code")(x))
        shape = (self.heads, 2 * self.size)
        both = nn.DenseGeneral(shape, use_bias=False, name="expand")(narrow)
        k, v = jnp.split(both, 2, -1)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(self.size)
        past = np.tril(np.ones(logits.shape[-2:], bool))
        weights = nn.softmax(jnp.where(past, logits, -1e9))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return nn.DenseGeneral(x.shape[-1], (-2, -1), use_bias=False, name="out")(mixed)


class Coded(nn.Module):
    """Words, latent attention and gated units beside a stream, a head."""

    @nn.compact
    def __call__(self, words: Array) -> Array:
        x = nn.Embed(64, WIDTH)(words)
        for _ in range(2):
            x = x + Latent()(RMSNorm()(x))
            x = x + Gated(HIDDEN)(RMSNorm()(x))
        return nn.Dense(64, use_bias=False)(RMSNorm()(x))


class Tubelets(nn.Module):
    """A video transformer: patches by a convolution over time and space."""

    @nn.compact
    def __call__(self, video: Array) -> Array:
        x = nn.Conv(WIDTH, (2, 4, 4), (2, 4, 4))(video)
        x = x.reshape(len(x), x.shape[1], -1, WIDTH)
        # Attention within each moment, then of each place over time.
        x = layer(x)
        x = layer(x.swapaxes(1, 2)).swapaxes(1, 2)
        return nn.Dense(6)(nn.LayerNorm()(x).mean((1, 2)))


CACHE = (2, 2, 10, 2, 8)

models(
    detr=lambda: linen(Detector(), normal(2, 16, 16, 3)),
    perceiver=lambda: linen(Perceiver(), normal(2, 18, 7)),
    conformer=lambda: linen(Conformer(), normal(2, 12, 8)),
    latent_attention=lambda: linen(Coded(), tokens(2, 8)),
    video_transformer=lambda: linen(Tubelets(), normal(2, 4, 8, 8, 3)),
    llama_cached_step=lambda: linen(
        Cached(), tokens(2), jnp.int32(6), normal(*CACHE), 0.5 * normal(*CACHE)
    ),
    masked_autoencoder=lambda: linen(
        Masked(), normal(2, 16, 12), jnp.argsort(normal(2, 16)).astype(jnp.int32)
    ),
)
