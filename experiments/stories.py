"""A LLaMA decoder of 260,000 parameters that writes stories, and the texts that it writes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Params = Any

LAYERS, SHARED, WIDTH = 5, 2, 8  # layers, query heads that share keys, features of a head
BEGIN = 1  # the token that begins a text


class Past(NamedTuple):
    """Keys and values of all places of a text, and which place is now."""

    keys: jax.Array
    values: jax.Array
    now: jax.Array


def apply(p: Params, tokens: jax.Array) -> jax.Array:
    """Returns logits of the next token at every place of ``(n, length)`` tokens.

    Reference: Touvron et al., LLaMA, 2023, arXiv 2302.13971.
    """
    h, places = p["embedding"][tokens.astype(jnp.int32)], jnp.arange(tokens.shape[1])
    for i in range(LAYERS):
        h, _ = _layer(p[f"layer_{i}"], h, places, None)
    return rms_norm(p["norm"], h) @ p["embedding"].T


def _layer(q: Params, h: jax.Array, places: jax.Array, past: Past | None) -> Any:
    x = rms_norm(q["attention_norm"], h)
    query, key, value = (
        jnp.einsum("blp,phd->blhd", x, q[name]["kernel"]) for name in ("query", "key", "value")
    )
    query, key = rotated(query, places), rotated(key, places)
    seen = places
    if past is not None:
        key = jax.lax.dynamic_update_slice_in_dim(past.keys, key, past.now, 1)
        value = jax.lax.dynamic_update_slice_in_dim(past.values, value, past.now, 1)
        seen = jnp.arange(key.shape[1])
    n, length = x.shape[:2]
    query = query.reshape(n, length, -1, SHARED, WIDTH)
    scores = jnp.einsum("blkgd,bmkd->bkglm", query, key) / np.sqrt(float(WIDTH))
    scores = jnp.where(seen <= places[:, None], scores, -1e30)
    mixed = jnp.einsum("bkglm,bmkd->blkgd", jax.nn.softmax(scores, -1), value)
    mixed = mixed.reshape(n, length, -1, WIDTH)
    h = h + jnp.einsum("blhd,hdq->blq", mixed, q["out"]["kernel"])
    x = rms_norm(q["mlp_norm"], h)
    gated = jax.nn.silu(x @ q["gate"]["kernel"]) * (x @ q["up"]["kernel"])
    return h + gated @ q["down"]["kernel"], (key, value)


def rms_norm(p: Params, x: jax.Array) -> jax.Array:
    """Root mean square normalisation."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * p["scale"]


def rotated(x: jax.Array, places: jax.Array) -> jax.Array:
    """Turns pairs of neighbouring features by their places (RoFormer, arXiv 2104.09864)."""
    angle = places[:, None] * 10000.0 ** (-jnp.arange(0, WIDTH, 2) / WIDTH)
    c, s = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    pairs = x.reshape(*x.shape[:-1], WIDTH // 2, 2)
    u, v = pairs[..., 0], pairs[..., 1]
    return jnp.stack([u * c - v * s, u * s + v * c], -1).reshape(x.shape)


@jax.jit(static_argnames=("count", "length"))
def sample(p: Params, key: jax.Array, count: int, length: int) -> jax.Array:
    """Returns ``(count, length)`` tokens of texts that the network writes, at temperature 1."""
    shape = (LAYERS, count, length, p["layer_0"]["key"]["kernel"].shape[1], WIDTH)

    def step(carry: Any, key: jax.Array) -> Any:
        token, now, keys, values = carry
        h, found = p["embedding"][token[:, None]], []
        for i in range(LAYERS):
            h, own = _layer(p[f"layer_{i}"], h, now[None], Past(keys[i], values[i], now))
            found.append(own)
        logits = rms_norm(p["norm"], h)[:, 0] @ p["embedding"].T
        new = jax.random.categorical(key, logits)
        return (new, now + 1, *map(jnp.stack, zip(*found, strict=True))), new

    first = jnp.full(count, BEGIN)
    start = (first, jnp.int32(0), jnp.zeros(shape), jnp.zeros(shape))
    _, written = jax.lax.scan(step, start, jax.random.split(key, length - 1))
    return jnp.concatenate([first[:, None], written.T], axis=1)
