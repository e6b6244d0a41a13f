"""A LLaMA-like decoder in NNX: bfloat16, scanned layers, embedding and output tied."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from experiments.coverage.zoo.modules import Decoder, pure


def _pure(config: Any) -> Any:
    return pure(lambda rngs: Decoder(config, rngs, jnp.bfloat16))


def shapes(config: Any) -> Any:
    """The parameters' shapes: a pure dict."""
    return _pure(config)[1]


def traced(config: Any) -> linjax.Net:
    """The decoder as linjax sees it; none of its parameters are made for that."""
    return linjax.trace(*_pure(config), jax.ShapeDtypeStruct((1, config.length), jnp.int32))


def random(config: Any) -> Any:
    """Random parameters, piece by piece: residual branches small, as at the start of a training."""
    rng = np.random.default_rng(config.seed)

    def made(path: Any, leaf: Any) -> jax.Array:
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
