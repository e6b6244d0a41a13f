"""The transformers of the experiments, in NNX: one for images, one for text."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import Network, of_module
from experiments.registry import NETWORKS


class Block(nnx.Module):
    """Attention and a feed-forward network, each beside the stream of features.

    Args:
      width: features of the stream.
      heads: number of attention heads.
      hidden: units of the feed-forward network.
      gate: ``""``, or the activation of its gate (SwiGLU: ``"silu"``).
      norm: normalisation in front of either.

    References: Vaswani et al., Attention is all you need, 2017, arXiv 1706.03762; Shazeer, GLU
    variants improve transformer, 2020, arXiv 2002.05202.
    """

    def __init__(self, width: int, heads: int, hidden: int, gate: str, norm: Any, *,
                 rngs: nnx.Rngs):  # fmt: skip
        self.before, self.between = norm(width, rngs=rngs), norm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.up = nnx.Linear(width, hidden, use_bias=not gate, rngs=rngs)
        self.gate = nnx.Linear(width, hidden, use_bias=False, rngs=rngs) if gate else None
        self.down = nnx.Linear(hidden, width, use_bias=not gate, rngs=rngs)
        self.activation = getattr(jax.nn, gate or "gelu")

    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x = x + self.attention(self.before(x), mask=mask)
        v = self.between(x)
        if self.gate is None:
            return x + self.down(self.activation(self.up(v)))
        return x + self.down(self.activation(self.gate(v)) * self.up(v))


class ViT(nnx.Module):
    """A vision transformer on square patches, averaged at the end.

    Reference: Dosovitskiy et al., An image is worth 16x16 words, 2020, arXiv 2010.11929.
    """

    def __init__(self, config: Any, classes: int, *, rngs: nnx.Rngs):
        height, width, channels = config.image
        self.image, self.patch = (height, width, channels), config.patch
        count = (height // config.patch) * (width // config.patch)
        self.embed = nnx.Linear(config.patch**2 * channels, config.width, rngs=rngs)
        self.places = nnx.Param(0.02 * rngs.params.normal((count, config.width)))
        self.blocks = nnx.List(
            Block(config.width, config.heads, config.ffn, "", nnx.LayerNorm, rngs=rngs)
            for _ in range(config.blocks)
        )
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.head = nnx.Linear(config.width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        height, width, channels = self.image
        p = self.patch
        x = x.reshape(-1, height // p, p, width // p, p, channels).swapaxes(2, 3)
        x = self.embed(x.reshape(x.shape[0], -1, p * p * channels)) + self.places[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class LM(nnx.Module):
    """A decoder-only language model with gated feed-forward networks."""

    def __init__(self, config: Any, length: int, symbols: int, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(symbols, config.width, rngs=rngs)
        self.places = nnx.Param(0.02 * rngs.params.normal((length, config.width)))
        self.blocks = nnx.List(
            Block(config.width, config.heads, config.ffn, "silu", nnx.RMSNorm, rngs=rngs)
            for _ in range(config.blocks)
        )
        self.norm = nnx.RMSNorm(config.width, rngs=rngs)
        self.head = nnx.Linear(config.width, symbols, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x)
        x = self.embed(x.astype(jnp.int32)) + self.places[...]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))


@NETWORKS.add("vit")
def vit(config: Any, inputs: int, classes: int) -> Network:
    """A vision transformer: ``image``, ``patch``, ``width``, ``heads``, ``ffn``, ``blocks``."""
    mine = config.network
    module = ViT(mine, classes, rngs=nnx.Rngs(mine.seed))
    return of_module(module, f"vision transformer, {_words(mine)}")


@NETWORKS.add("lm")
def lm(config: Any, inputs: int, classes: int) -> Network:
    """A language model on rows of ``inputs`` symbols out of ``classes``."""
    mine = config.network
    module = LM(mine, inputs, classes, rngs=nnx.Rngs(mine.seed))
    return of_module(module, f"language model, {_words(mine)}, gated")


def _words(mine: Any) -> str:
    return f"{mine.blocks} blocks of {mine.width} features and {mine.ffn} units"
