"""The same kinds of networks as modules of Flax NNX."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from experiments.coverage.zoo.attention import rotated
from experiments.coverage.zoo.registry import Built, filled, models, normal, tokens

Array = jax.Array


class Perceptron(nnx.Module):
    """Dense layers, their activations GELU."""

    def __init__(self, widths: tuple[int, ...], rngs: nnx.Rngs):
        pairs = itertools.pairwise(widths)
        self.layers = nnx.List([nnx.Linear(p, q, rngs=rngs) for p, q in pairs])

    def __call__(self, x: Array) -> Array:
        *hidden, head = self.layers
        for layer in hidden:
            x = nnx.gelu(layer(x))
        return head(x)


class Pictures(nnx.Module):
    """Convolutions with batch norms, a residual sum, dense layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.convs = nnx.List([nnx.Conv(16, 16, (3, 3), rngs=rngs) for _ in range(2)])
        self.norms = nnx.List(
            [nnx.BatchNorm(16, use_running_average=True, rngs=rngs) for _ in range(3)]
        )
        self.hidden = nnx.Linear(16 * 16, 48, rngs=rngs)
        self.head = nnx.Linear(48, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.norms[0](self.stem(x)))
        y = nnx.relu(self.norms[1](self.convs[0](x)))
        x = nnx.relu(x + self.norms[2](self.convs[1](y)))
        x = nnx.max_pool(x, (4, 4), (4, 4))
        return self.head(nnx.relu(self.hidden(x.reshape(len(x), -1))))


class Layer(nnx.Module):
    """Attention and two dense layers, their norms in front."""

    def __init__(self, rngs: nnx.Rngs, width: int = 32, hidden: int = 64):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.feedforward = Perceptron((width, hidden, width), rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.norms[0](x))
        return x + self.feedforward(self.norms[1](x))


class Encoder(nnx.Module):
    """Words, layers, their mean classified."""

    def __init__(self, rngs: nnx.Rngs, width: int = 32):
        self.embed = nnx.Embed(64, width, rngs=rngs)
        self.layers = nnx.List([Layer(rngs) for _ in range(2)])
        self.head = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, words: Array) -> Array:
        x = self.embed(words)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(-2))


def stacked(make: Callable[[nnx.Rngs], nnx.Module], count: int, rngs: nnx.Rngs) -> nnx.Module:
    """Layers made by `vmap`, their weights stacked."""
    return nnx.split_rngs(splits=count)(nnx.vmap(make, in_axes=0, out_axes=0))(rngs)


def scanned(layers: nnx.Module, x: Array) -> Array:
    """Runs stacked layers by `scan`."""

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def forward(x: Array, layer: Any) -> Array:
        return layer(x)

    return forward(x, layers)


class Stacked(nnx.Module):
    """Words, scanned layers, their mean classified."""

    def __init__(self, rngs: nnx.Rngs, layers: int = 3, width: int = 32):
        self.embed = nnx.Embed(64, width, rngs=rngs)
        self.layers = stacked(Layer, layers, rngs)
        self.head = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, words: Array) -> Array:
        return self.head(scanned(self.layers, self.embed(words)).mean(-2))


class Sizes(NamedTuple):
    """Those of a decoder: features, layers, heads and their features, units, words."""

    width: int = 32
    layers: int = 3
    heads: int = 4
    head: int = 8
    hidden: int = 64
    vocabulary: int = 64


class Rotary(nnx.Module):
    """Attention with rotary positions, then a gated feed-forward block, each behind a norm."""

    def __init__(self, sizes: Any, rngs: nnx.Rngs, dtype: DTypeLike):
        d, m, heads = sizes.width, sizes.hidden, sizes.heads * sizes.head
        typed: Any = {"param_dtype": dtype, "dtype": dtype, "rngs": rngs}
        linear: Any = functools.partial(nnx.Linear, use_bias=False, **typed)
        self.size = sizes.head
        self.norm_attention, self.norm_hidden = nnx.RMSNorm(d, **typed), nnx.RMSNorm(d, **typed)
        self.query, self.key, self.value = (linear(d, heads) for _ in range(3))
        self.out, self.gate, self.up = linear(heads, d), linear(d, m), linear(d, m)
        self.down = linear(m, d)

    def __call__(self, x: Array) -> Array:
        y, (rows, length, _) = self.norm_attention(x), x.shape
        query, key, value = (
            own(y).reshape(rows, length, -1, self.size)
            for own in (self.query, self.key, self.value)
        )
        query, key = rotated(query), rotated(key)
        scores = jnp.einsum("nths,nuhs->nhtu", query, key) / np.sqrt(self.size).astype(x.dtype)
        seen = np.tril(np.ones((length, length), bool))
        shares = jax.nn.softmax(jnp.where(seen, scores.astype(jnp.float32), -1e9), axis=-1)
        mixed = jnp.einsum("nhtu,nuhs->nths", shares.astype(value.dtype), value)
        x = x + self.out(mixed.reshape(rows, length, -1))
        y = self.norm_hidden(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class Decoder(nnx.Module):
    """Words, scanned blocks of LLaMA's, a norm, and the embedding again; ``sizes`` as `Sizes`."""

    def __init__(self, sizes: Any, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        typed: Any = {"param_dtype": dtype, "dtype": dtype, "rngs": rngs}
        self.embed = nnx.Embed(sizes.vocabulary, sizes.width, **typed)
        self.layers = stacked(lambda rngs: Rotary(sizes, rngs, dtype), sizes.layers, rngs)
        self.norm = nnx.RMSNorm(sizes.width, **typed)

    def __call__(self, words: Array) -> Array:
        x = self.norm(scanned(self.layers, self.embed(words)))
        return self.embed.attend(x).astype(jnp.float32)


def pure(make: Callable[[nnx.Rngs], nnx.Module]) -> tuple[Callable[..., Any], Any]:
    """The function of a module, and its parameters' shapes, plain dicts."""
    graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return lambda params, *inputs: nnx.merge(graph, params)(*inputs), nnx.to_pure_dict(state)


def built(make: Callable[[nnx.Rngs], nnx.Module], *inputs: Any) -> Built:
    """The function of a module, random parameters, inputs."""
    apply, shapes = pure(make)
    return apply, filled(shapes), inputs


models(
    nnx_mlp=lambda: built(lambda rngs: Perceptron((20, 64, 48, 10), rngs), normal(4, 20)),
    nnx_resnet=lambda: built(Pictures, normal(2, 16, 16, 3)),
    nnx_transformer=lambda: built(Encoder, tokens(2, 8)),
    nnx_scanned_transformer=lambda: built(Stacked, tokens(2, 8)),
    nnx_scanned_llama=lambda: built(lambda rngs: Decoder(Sizes(), rngs), tokens(2, 8)),
)
