"""Attention in the ways that public transformers write it, for the models in Flax Linen."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Array = jax.Array


def rotated(x: Array, base: float = 10000.0) -> Array:
    """Rotary position embedding of (…, places, heads, features): halves of the features pair."""
    half = x.shape[-1] // 2
    rates = base ** (-np.arange(half) / half)
    angles = np.arange(x.shape[-3])[:, None, None] * rates
    a, b = jnp.split(x, 2, -1)
    cos, sin = (jnp.asarray(f(angles), x.dtype) for f in (np.cos, np.sin))
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def sinusoids(length: int, width: int) -> Array:
    """Positions as sines and cosines."""
    rates = 10000.0 ** (-np.arange(width // 2) / (width // 2))
    angles = np.arange(length)[:, None] * rates
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], -1), jnp.float32)


def bucketed(queries: int, keys: int, buckets: int = 8) -> np.ndarray:
    """Distances between places in buckets, finer where they are near."""
    distance = np.arange(keys)[None] - np.arange(queries)[:, None]
    near = np.minimum(np.log2(1 + abs(distance)).astype(int), buckets // 2 - 1)
    return np.where(distance > 0, near + buckets // 2, near)


class RMSNorm(nn.Module):
    """Divides by the root of the mean square; Gemma's scale is read as one more."""

    offset: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        mean = jnp.mean(jnp.square(x), -1, keepdims=True)
        return x * jax.lax.rsqrt(mean + 1e-6) * (self.offset + scale)


class Attention(nn.Module):
    """Queries of one sequence against keys and values of another.

    Attributes:
      heads: how many heads of queries.
      size: features a head.
      groups: heads of keys and values; as many as of queries where 0.
      rotary: whether queries and keys are rotated by their place.
      normed: whether queries and keys are divided by their root mean square.
      causal: whether the future is hidden.
      buckets: how many learned biases a head has for distances; none where 0.
      bias: whether projections have biases.
      scaled: whether products are divided by the root of the size of a head.
      cap: what logits are squashed to by a tanh; not where 0.
    """

    heads: int = 4
    size: int = 8
    groups: int = 0
    rotary: bool = False
    normed: bool = False
    causal: bool = False
    buckets: int = 0
    bias: bool = False
    scaled: bool = True
    cap: float = 0.0

    @nn.compact
    def __call__(
        self, x: Array, memory: Array | None = None, padding: Array | None = None
    ) -> Array:
        source = x if memory is None else memory
        groups = self.groups or self.heads

        def project(y: Array, heads: int, name: str) -> Array:
            return nn.DenseGeneral((heads, self.size), use_bias=self.bias, name=name)(y)

        q = project(x, self.heads, "query")
        k, v = (project(source, groups, name) for name in ("key", "value"))
        if self.normed:
            q, k = RMSNorm(name="query_norm")(q), RMSNorm(name="key_norm")(k)
        if self.rotary:
            q, k = rotated(q), rotated(k)
        q = q.reshape(*q.shape[:-2], groups, self.heads // groups, self.size)
        logits = jnp.einsum("...qgrd,...kgd->...grqk", q, k)
        if self.scaled:
            logits = logits / math.sqrt(self.size)
        if self.buckets:
            table = nn.Embed(self.buckets, self.heads, name="distances")
            bias = table(bucketed(q.shape[-4], k.shape[-3], self.buckets))
            bias = bias.transpose(2, 0, 1)
            logits = logits + bias.reshape(groups, self.heads // groups, *bias.shape[1:])
        if self.cap:
            logits = self.cap * jnp.tanh(logits / self.cap)
        if self.causal:
            past = np.tril(np.ones(logits.shape[-2:], bool))
            logits = jnp.where(past, logits, -1e9)
        if padding is not None:
            logits = jnp.where(padding[:, None, None, None], logits, -1e9)
        mixed = jnp.einsum("...grqk,...kgd->...qgrd", nn.softmax(logits), v)
        mixed = mixed.reshape(*mixed.shape[:-3], self.heads, self.size)
        return nn.DenseGeneral(x.shape[-1], (-2, -1), use_bias=self.bias, name="out")(mixed)


class Fused(nn.Module):
    """Attention whose queries, keys and values are of one kernel, as in GPT-2."""

    heads: int = 4
    causal: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        parts = jnp.split(nn.Dense(3 * width)(x), 3, -1)
        q, k, v = (y.reshape(*y.shape[:-1], self.heads, -1) for y in parts)
        logits = jnp.einsum("...qhd,...khd->...hqk", q, k) / math.sqrt(q.shape[-1])
        if self.causal:
            logits = jnp.where(np.tril(np.ones(logits.shape[-2:], bool)), logits, -1e9)
        mixed = jnp.einsum("...hqk,...khd->...qhd", nn.softmax(logits), v)
        return nn.Dense(width)(mixed.reshape(x.shape))


class Gated(nn.Module):
    """A feed-forward layer whose units are multiplied by the activation of others."""

    width: int
    activation: str = "silu"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, use_bias=False, name=name)

        activation = getattr(jax.nn, self.activation)
        h = activation(dense(self.width, "gate")(x)) * dense(self.width, "up")(x)
        return dense(x.shape[-1], "down")(h)


class Feedforward(nn.Module):
    """Two dense layers."""

    width: int
    activation: str = "gelu"
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = getattr(jax.nn, self.activation)(nn.Dense(self.width, use_bias=self.bias)(x))
        return nn.Dense(x.shape[-1], use_bias=self.bias)(h)


class Layer(nn.Module):
    """Attention and a feed-forward layer, each added to the stream that it reads through a norm.

    Attributes:
      attention: reads the stream, or what it is given beside, where there is no `cross`.
      feedforward: what follows.
      cross: reads what is given beside the stream, between the two.
      norm: makes the norms.
      post: whether there are norms behind both, too (Gemma 2).
      parallel: whether both read the same normed stream (GPT-J).
      scaled: whether what is added is scaled by a parameter (DeiT III, DINOv2).
    """

    attention: nn.Module
    feedforward: nn.Module
    cross: nn.Module | None = None
    norm: Callable[[], nn.Module] = nn.LayerNorm
    post: bool = False
    parallel: bool = False
    scaled: bool = False

    @nn.compact
    def __call__(
        self, x: Array, memory: Array | None = None, padding: Array | None = None
    ) -> Array:
        given = {k: v for k, v in (("memory", memory), ("padding", padding)) if v is not None}
        if self.parallel:
            y = self.norm()(x)
            return x + self.attention(y) + self.feedforward(y)
        steps = [(self.attention, {} if self.cross else given)]
        steps += [(self.cross, given)] if self.cross else []
        for k, (step, own) in enumerate([*steps, (self.feedforward, {})]):
            y = step(self.norm()(x), **own)
            y = self.norm()(y) if self.post else y
            if self.scaled:
                y = y * self.param(f"scale_{k}", nn.initializers.ones, (x.shape[-1],))
            x = x + y
        return x
