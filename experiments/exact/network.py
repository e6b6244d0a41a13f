"""Dense ReLU networks as plain lists of layers."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Array = Any
Params = list[dict[str, Array]]


def init(seed: Array, widths: Sequence[int]) -> Params:
    """Returns first parameters: LeCun's normal kernels, biases of zero."""
    pairs = list(itertools.pairwise(widths))
    keys = jax.random.split(jax.random.key(seed), len(pairs))
    kernel = jax.nn.initializers.lecun_normal()
    return [
        {"kernel": kernel(key, pair), "bias": jnp.zeros(pair[1])}
        for key, pair in zip(keys, pairs, strict=True)
    ]


def preactivations(params: Params, x: Array) -> list[Array]:
    """Returns every layer's values before its ReLU; the last are the logits."""
    values: list[Array] = []
    for part in params:
        x = jax.nn.relu(values[-1]) if values else x
        values.append(x @ part["kernel"] + part["bias"])
    return values


def apply(params: Params, x: Array) -> Array:
    """Returns the logits."""
    return preactivations(params, x)[-1]
