"""A LLaMA-like decoder in NNX: bfloat16, scanned layers, embedding and output tied."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

import linjax
from experiments.coverage.zoo.attention import rotated

Array = jax.Array
DTYPE: DTypeLike = jnp.bfloat16
TYPED: Any = {"param_dtype": DTYPE, "dtype": DTYPE}


class Block(nnx.Module):
    """Attention with rotary positions, then a gated feed-forward block, each behind a norm."""

    def __init__(self, config: Any, rngs: nnx.Rngs) -> None:
        d, m, heads = config.width, config.hidden, config.heads * config.head

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, use_bias=False, **TYPED, rngs=rngs)

        self.size = config.head
        self.norm_attention = nnx.RMSNorm(d, **TYPED, rngs=rngs)
        self.norm_hidden = nnx.RMSNorm(d, **TYPED, rngs=rngs)
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
        scores = jnp.einsum("nths,nuhs->nhtu", query, key) / np.sqrt(self.size).astype(DTYPE)
        seen = np.tril(np.ones((length, length), bool))
        shares = jax.nn.softmax(jnp.where(seen, scores.astype(jnp.float32), -1e9), axis=-1)
        mixed = jnp.einsum("nhtu,nuhs->nths", shares.astype(value.dtype), value)
        x = x + self.out(mixed.reshape(rows, length, -1))
        y = self.norm_hidden(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


class Decoder(nnx.Module):
    """Embedding, scanned blocks, a norm, and the embedding again."""

    def __init__(self, config: Any, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs)

        self.embed = nnx.Embed(config.vocabulary, config.width, **TYPED, rngs=rngs)
        self.layers = blocks(rngs)
        self.norm = nnx.RMSNorm(config.width, **TYPED, rngs=rngs)

    def __call__(self, tokens: Array) -> Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def through(x: Array, block: Block) -> Array:
            return block(x)

        x = self.norm(through(self.embed(tokens), self.layers))
        return self.embed.attend(x).astype(jnp.float32)


def shapes(config: Any) -> Any:
    """The parameters' shapes: a pure dict."""
    model = nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.split(model)[1])


def traced(config: Any) -> linjax.Net:
    """The decoder as linjax sees it; none of its parameters are made for that."""
    graph = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))[0]

    def apply(params: Any, tokens: Array) -> Array:
        return nnx.merge(graph, params)(tokens)

    tokens = jax.ShapeDtypeStruct((1, config.length), jnp.int32)
    return linjax.trace(apply, shapes(config), tokens)


def random(config: Any) -> Any:
    """Random parameters, piece by piece: residual branches small, as at the start of a training."""
    rng = np.random.default_rng(config.seed)

    def made(path: Any, leaf: Any) -> Array:
        name = jax.tree_util.keystr(path)
        if "norm" in name:
            return jnp.ones(leaf.shape, leaf.dtype)
        scale = leaf.shape[-1 if "embed" in name else -2] ** -0.5
        if "out" in name or "down" in name:
            scale /= (2 * config.layers) ** 0.5
        value = np.empty(leaf.shape, leaf.dtype)
        for part in value:  # a layer, or a word
            part[:] = scale * rng.standard_normal(part.shape, np.float32)
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(made, shapes(config))


def batches(config: Any) -> list[np.ndarray]:
    """Random tokens, in batches of sequences."""
    rng = np.random.default_rng(config.seed + 1)
    size = (config.sequences, config.length)
    tokens = rng.integers(config.vocabulary, size=size, dtype=np.int32)
    return [tokens[i : i + config.batch] for i in range(0, config.sequences, config.batch)]
