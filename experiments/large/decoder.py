"""A LLaMA-like decoder in NNX: bfloat16, scanned layers, embedding and output tied."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

import linjax

Array = jax.Array
DTYPE: DTypeLike = jnp.bfloat16


class Block(nnx.Module):
    """Attention with rotary positions, then a gated feed-forward block, each behind a norm."""

    def __init__(self, config: Any, rngs: nnx.Rngs) -> None:
        d, size, m = config.width, config.head, config.hidden
        plain: Any = {"use_bias": False, "param_dtype": DTYPE, "dtype": DTYPE, "rngs": rngs}
        norm: Any = {"param_dtype": DTYPE, "dtype": DTYPE, "rngs": rngs}
        self.size = size
        self.norm_attention, self.norm_hidden = nnx.RMSNorm(d, **norm), nnx.RMSNorm(d, **norm)
        self.query = nnx.Linear(d, config.heads * size, **plain)
        self.key = nnx.Linear(d, config.heads * size, **plain)
        self.value = nnx.Linear(d, config.heads * size, **plain)
        self.out = nnx.Linear(config.heads * size, d, **plain)
        self.gate, self.up = nnx.Linear(d, m, **plain), nnx.Linear(d, m, **plain)
        self.down = nnx.Linear(m, d, **plain)

    def __call__(self, x: Array) -> Array:
        y, (rows, length, _) = self.norm_attention(x), x.shape
        split = rows, length, -1, self.size
        query, key = (rotated(own(y).reshape(split)) for own in (self.query, self.key))
        scores = jnp.einsum("nths,nuhs->nhtu", query, key) / np.sqrt(self.size).astype(DTYPE)
        seen = np.tril(np.ones((length, length), bool))
        shares = jax.nn.softmax(jnp.where(seen, scores.astype(jnp.float32), -1e9), axis=-1)
        value = self.value(y).reshape(split)
        mixed = jnp.einsum("nhtu,nuhs->nths", shares.astype(value.dtype), value)
        x = x + self.out(mixed.reshape(rows, length, -1))
        y = self.norm_hidden(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


def rotated(x: Array) -> Array:
    """Rotates pairs of coordinates by angles that grow along the sequence."""
    length, half = x.shape[1], x.shape[-1] // 2
    angle = np.arange(length)[:, None] / 10000.0 ** (np.arange(half) / half)
    cos, sin = (f(angle)[:, None, :].astype(x.dtype) for f in (np.cos, np.sin))
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Decoder(nnx.Module):
    """Embedding, scanned blocks, a norm, and the embedding again."""

    def __init__(self, config: Any, rngs: nnx.Rngs) -> None:
        norm: Any = {"param_dtype": DTYPE, "dtype": DTYPE, "rngs": rngs}
        self.embed = nnx.Embed(config.vocabulary, config.width, **norm)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs)

        self.layers = blocks(rngs)
        self.norm = nnx.RMSNorm(config.width, **norm)

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
    """Random parameters, leaf by leaf: residual branches small, as at the start of a training."""
    rng, leaves = np.random.default_rng(config.seed), jax.tree_util.tree_leaves_with_path
    found = []
    for path, leaf in leaves(shapes(config)):
        name = jax.tree_util.keystr(path)
        if "norm" in name:
            found.append(jnp.ones(leaf.shape, leaf.dtype))
            continue
        fan_in = leaf.shape[-1] if "embed" in name else leaf.shape[-2]
        scale = fan_in**-0.5
        if "out" in name or "down" in name:
            scale /= (2 * config.layers) ** 0.5
        value = np.empty(leaf.shape, leaf.dtype)
        for part in value.reshape(-1, leaf.shape[-1])[None] if leaf.ndim < 3 else value:
            part[:] = scale * rng.standard_normal(part.shape, np.float32)
        found.append(jnp.asarray(value))
    return jax.tree.unflatten(jax.tree.structure(shapes(config)), found)


def batches(config: Any) -> list[np.ndarray]:
    """Random tokens, in batches of sequences."""
    rng = np.random.default_rng(config.seed + 1)
    size = (config.sequences, config.length)
    tokens = rng.integers(config.vocabulary, size=size, dtype=np.int32)
    return [tokens[i : i + config.batch] for i in range(0, config.sequences, config.batch)]
