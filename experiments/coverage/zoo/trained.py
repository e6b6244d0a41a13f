"""Networks whose weights others published, in bare JAX: those of ``experiments.pretrained``."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from experiments.coverage.zoo.registry import Built, filled, models, normal, tokens

Params = Any

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
"""Stages of EfficientNet-Lite0: blocks, extent, stride of the first, expansion, channels."""
LAYERS, SHARED, WIDTH = 5, 2, 8  # layers, query heads that share keys, features of a head
BEGIN = 1  # the token that begins a text


def conv(
    kernel: jax.Array, x: jax.Array, stride: int = 1, groups: int = 1, padding: Any = "SAME"
) -> jax.Array:
    """Convolves ``(n, h, w, c)``."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


def batch_norm(p: Params, x: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Batch norm by its running statistics."""
    return (x - p["mean"]) * (p["scale"] * jax.lax.rsqrt(p["var"] + epsilon)) + p["bias"]


def images(x: jax.Array) -> jax.Array:
    """Rows of pixels as square pictures in three colours."""
    side = math.isqrt(x.shape[-1] // 3)
    return x.reshape(-1, side, side, 3)


def resnet20(p: Params, x: jax.Array) -> jax.Array:
    """CIFAR-10's ResNet-20, whose shortcuts have no parameters.

    Reference: He, Zhang, Ren and Sun, Deep residual learning, 2015, arXiv 1512.03385.
    """
    x = (images(x) - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    h = jax.nn.relu(batch_norm(p["norm"], conv(p["conv"]["kernel"], x)))
    for stage in (1, 2, 3):
        for block in range(3):
            q, stride = p[f"stage_{stage}"][f"block_{block}"], 2 if stage > 1 and not block else 1
            y = conv(q["conv1"]["kernel"], h, stride, padding=[(1, 1), (1, 1)])
            y = jax.nn.relu(batch_norm(q["norm1"], y))
            y = batch_norm(q["norm2"], conv(q["conv2"]["kernel"], y))
            if stride == 2:
                more = h.shape[-1] // 2
                h = jnp.pad(h[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (more, more)))
            h = jax.nn.relu(y + h)
    return h.mean((1, 2)) @ p["head"]["kernel"] + p["head"]["bias"]


def efficientnet_lite0(p: Params, x: jax.Array, side: int = 224, stages: Any = LITE) -> jax.Array:
    """EfficientNet-Lite0 on small pictures, which are enlarged.

    Reference: Tan and Le, EfficientNet, 2019, arXiv 1905.11946.
    """

    def layer(q: Params, x: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
        return batch_norm(q["norm"], conv(q["kernel"], x, stride, groups), 1e-3)

    x = jax.image.resize(images(x), (x.shape[0], side, side, 3), "bilinear")
    h = jax.nn.relu6(layer(p["stem"], (x * 255 - 127) / 128, 2))
    index = 0
    for blocks, _, first, expansion, channels in stages:
        for block in range(blocks):
            q, stride, before = p[f"block_{index}"], 1 if block else first, h
            if expansion > 1:
                h = jax.nn.relu6(layer(q["expand"], h))
            h = jax.nn.relu6(layer(q["depthwise"], h, stride, h.shape[-1]))
            h = layer(q["project"], h)
            h = h + before if stride == 1 and before.shape[-1] == channels else h
            index += 1
    h = jax.nn.relu6(layer(p["head"], h)).mean((1, 2))
    return h @ p["classifier"]["kernel"] + p["classifier"]["bias"]


def crepe_tiny(p: Params, x: jax.Array) -> jax.Array:
    """CREPE on frames of 1024 samples: logits of 360 pitches; batch norm behind activations.

    Reference: Kim, Salamon, Li and Bello, CREPE, 2018, arXiv 1802.06182.
    """
    h = x[:, :, None]
    for layer in range(1, 7):
        q, stride = p[f"conv{layer}"], 4 if layer == 1 else 1
        pad = (254, 254) if layer == 1 else (31, 32)
        h = jax.lax.conv_general_dilated(
            h, q["kernel"], (stride,), [pad], dimension_numbers=("NWC", "WIO", "NWC")
        )
        h = batch_norm(q["norm"], jax.nn.relu(h + q["bias"]), 1e-3)
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2, 1), (1, 2, 1), "VALID")
    return h.reshape(h.shape[0], -1) @ p["classifier"]["kernel"] + p["classifier"]["bias"]


class Past(NamedTuple):
    """Keys and values of all places of a text, and which place is now."""

    keys: jax.Array
    values: jax.Array
    now: jax.Array


def stories260k(p: Params, tokens: jax.Array) -> jax.Array:
    """A LLaMA decoder: logits of the next token at every place of ``(n, length)`` tokens.

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


def built(apply: Any, x: Any, shapes: dict[str, tuple[int, ...]]) -> Built:
    """Random parameters of shapes that are named by paths; a batch norm has four leaves."""
    leaves: Params = {}
    for name, shape in shapes.items():
        leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
        normed = name.rpartition("/")[2].startswith("norm")
        ends = ("/mean", "/var", "/scale", "/bias") if normed else ("",)
        leaves |= {name + end: leaf for end in ends}
    return apply, filled(unflatten_dict(leaves, sep="/")), (x,)


def small_resnet20() -> Built:
    """Stages of 4, 8 and 16 channels."""
    shapes: dict[str, tuple[int, ...]] = {"conv/kernel": (3, 3, 3, 4), "norm": (4,)}
    for stage, block in ((s, b) for s in (1, 2, 3) for b in range(3)):
        q, width = f"stage_{stage}/block_{block}", 2 << stage
        before = width // 2 if stage > 1 and not block else width
        for n, inputs in ((1, before), (2, width)):
            shapes |= {f"{q}/conv{n}/kernel": (3, 3, inputs, width), f"{q}/norm{n}": (width,)}
    shapes |= {"head/kernel": (16, 10), "head/bias": (10,)}
    return built(resnet20, normal(2, 3 * 16 * 16), shapes)


def small_efficientnet() -> Built:
    """Two stages."""
    stages = ((1, 3, 1, 1, 8), (2, 3, 2, 3, 12))
    shapes: dict[str, tuple[int, ...]] = {"stem/kernel": (3, 3, 3, 8), "stem/norm": (8,)}
    for n, (inputs, wide, outputs) in enumerate(((8, 8, 8), (8, 24, 12), (12, 36, 12))):
        of = {"depthwise": (3, 3, 1, wide), "project": (1, 1, wide, outputs)}
        of |= {"expand": (1, 1, inputs, wide)} if n else {}
        for name, shape in of.items():
            shapes |= {f"block_{n}/{name}/kernel": shape, f"block_{n}/{name}/norm": shape[-1:]}
    shapes |= {"head/kernel": (1, 1, 12, 20), "head/norm": (20,)}
    shapes |= {"classifier/kernel": (20, 10), "classifier/bias": (10,)}
    apply = functools.partial(efficientnet_lite0, side=16, stages=stages)
    return built(apply, abs(normal(2, 3 * 8 * 8)), shapes)


def small_crepe() -> Built:
    """Six layers of 4 to 8 channels."""
    shapes: dict[str, tuple[int, ...]] = {}
    for n, (inputs, width) in enumerate(((1, 8), (8, 4), (4, 4), (4, 4), (4, 6), (6, 8)), 1):
        extent = 512 if n == 1 else 64
        shapes |= {f"conv{n}/kernel": (extent, inputs, width), f"conv{n}/bias": (width,)}
        shapes |= {f"conv{n}/norm": (width,)}
    shapes |= {"classifier/kernel": (32, 36), "classifier/bias": (36,)}
    return built(crepe_tiny, normal(2, 1024), shapes)


LAYER = {
    "attention_norm/scale": (16,), "query/kernel": (16, 2, 8), "key/kernel": (16, 1, 8),
    "value/kernel": (16, 1, 8), "out/kernel": (2, 8, 16), "mlp_norm/scale": (16,),
    "gate/kernel": (16, 20), "up/kernel": (16, 20), "down/kernel": (20, 16),
}  # fmt: skip


def small_stories() -> Built:
    """Two query heads that share keys and values, in each of five layers."""
    shapes: dict[str, tuple[int, ...]] = {"embedding": (24, 16), "norm/scale": (16,)}
    return built(stories260k, tokens(2, 9, vocabulary=24), shapes | {
        f"layer_{i}/{name}": shape for i in range(LAYERS) for name, shape in LAYER.items()
    })  # fmt: skip


models(
    resnet20_cifar=small_resnet20,
    efficientnet_lite0=small_efficientnet,
    crepe_tiny=small_crepe,
    stories260k=small_stories,
)
