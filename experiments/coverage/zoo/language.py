"""Decoders of text in Flax Linen."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.coverage.zoo.attention import (
    Attention,
    Feedforward,
    Fused,
    Gated,
    RMSNorm,
    sinusoids,
)
from experiments.coverage.zoo.registry import Built, linen, model, tokens

Array = jax.Array
WIDTH, HIDDEN, VOCABULARY = 32, 64, 64


class Block(nn.Module):
    """A layer with its norms in front, and also behind where `post` says so (Gemma 2)."""

    attention: Callable[[], nn.Module]
    feedforward: Callable[[], nn.Module]
    norm: Callable[[], nn.Module] = nn.LayerNorm
    post: bool = False
    parallel: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.parallel:  # GPT-J: both read the same normed stream
            y = self.norm()(x)
            return x + self.attention()(y) + self.feedforward()(y)
        for layer in (self.attention, self.feedforward):
            y = layer()(self.norm()(x))
            x = x + (self.norm()(y) if self.post else y)
        return x


class Decoder(nn.Module):
    """An embedding, blocks, a norm and a head.

    Attributes:
      blocks: the layers; a layer that is listed twice shares its weights.
      norm: the last norm.
      positions: "learned", "sines" or "none" (they are rotary, in the blocks).
      tied: whether the embedding is also the head.
      scaled: whether embedded words are multiplied by the root of the width (Gemma).
      narrow: width of the embedding where it is factored (ALBERT); not where 0.
    """

    blocks: tuple[nn.Module, ...]
    norm: Callable[[], nn.Module] = nn.LayerNorm
    positions: str = "none"
    tied: bool = False
    scaled: bool = False
    narrow: int = 0

    @nn.compact
    def __call__(self, words: Array) -> Array:
        embed = nn.Embed(VOCABULARY, self.narrow or WIDTH)
        x = embed(words)
        if self.narrow:
            x = nn.Dense(WIDTH)(x)
        if self.scaled:
            x = x * np.float32(np.sqrt(WIDTH))
        if self.positions == "sines":
            x = x + sinusoids(*x.shape[-2:])
        if self.positions == "learned":
            table = self.param("positions", nn.initializers.normal(), (16, WIDTH))
            x = x + table[: x.shape[-2]]
        for block in self.blocks:
            x = block(x)
        x = self.norm()(x)
        return embed.attend(x) if self.tied else nn.Dense(VOCABULARY, use_bias=False)(x)


class Scanned(nn.Module):
    """The same block over and over, its weights stacked, by `nn.scan`."""

    layers: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def step(block: nn.Module, carry: Array) -> tuple[Array, None]:
            return block(carry), None

        scan = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers
        )
        return scan(llama_block(), x)[0]


class Experts(nn.Module):
    """A mixture of experts with dense dispatch: every word passes through all, few count."""

    experts: int = 4
    width: int = 32
    used: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.experts, x.shape[-1], self.width)
        make = nn.initializers.normal()
        gate = self.param("gate_kernel", make, shape)
        up = self.param("up_kernel", make, shape)
        down = self.param("down_kernel", make, (shape[0], shape[2], shape[1]))
        chances = nn.softmax(nn.Dense(self.experts, use_bias=False, name="router")(x))
        least = jax.lax.top_k(chances, self.used)[0][..., -1:]
        weights = jnp.where(chances >= least, chances, 0)
        h = nn.silu(jnp.einsum("...p,epm->...em", x, gate))
        h = h * jnp.einsum("...p,epm->...em", x, up)
        return jnp.einsum("...em,emq,...e->...q", h, down, weights)


def llama_block() -> Block:
    """Grouped queries, rotary, SwiGLU."""
    return Block(
        lambda: Attention(groups=2, rotary=True, causal=True), lambda: Gated(HIDDEN), RMSNorm
    )


def decoder(*blocks: nn.Module, **options: Any) -> Built:
    """The decoder of these blocks, on short texts."""
    return linen(Decoder(blocks, **options), tokens(2, 12, vocabulary=VOCABULARY))


@model("lm1b")
def lm1b() -> Built:
    blocks = [
        Block(lambda: Attention(causal=True), lambda: Feedforward(HIDDEN, "relu")) for _ in range(2)
    ]
    return decoder(*blocks, positions="sines")


@model("gpt2_fused")
def gpt2_fused() -> Built:
    blocks = [Block(Fused, lambda: Feedforward(HIDDEN)) for _ in range(2)]
    return decoder(*blocks, positions="learned", tied=True)


@model("gptj_parallel")
def gptj_parallel() -> Built:
    blocks = [
        Block(
            lambda: Attention(rotary=True, causal=True), lambda: Feedforward(HIDDEN), parallel=True
        )
        for _ in range(2)
    ]
    return decoder(*blocks)


@model("llama")
def llama() -> Built:
    return decoder(llama_block(), llama_block(), norm=RMSNorm)


@model("scanned_llama")
def scanned_llama() -> Built:
    return decoder(Scanned(), norm=RMSNorm)


@model("qwen3")
def qwen3() -> Built:
    blocks = [
        Block(
            lambda: Attention(groups=2, rotary=True, normed=True, causal=True),
            lambda: Gated(HIDDEN),
            RMSNorm,
        )
        for _ in range(2)
    ]
    return decoder(*blocks, norm=RMSNorm, tied=True)


@model("gemma2")
def gemma2() -> Built:
    def norm() -> RMSNorm:
        return RMSNorm(offset=1.0)

    blocks = [
        Block(
            lambda: Attention(groups=1, rotary=True, causal=True, cap=50.0),
            lambda: Gated(HIDDEN, "gelu"),
            norm,
            post=True,
        )
        for _ in range(2)
    ]
    return decoder(*blocks, norm=norm, tied=True, scaled=True)


@model("mixture_of_experts")
def mixture_of_experts() -> Built:
    blocks = [
        Block(lambda: Attention(groups=2, rotary=True, causal=True), Experts, RMSNorm)
        for _ in range(2)
    ]
    return decoder(*blocks, norm=RMSNorm)


@model("albert_shared")
def albert_shared() -> Built:
    block = Block(lambda: Attention(bias=True), lambda: Feedforward(HIDDEN))
    return decoder(block, block, block, positions="learned", narrow=16)
