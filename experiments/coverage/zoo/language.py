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
    Layer,
    RMSNorm,
    sinusoids,
)
from experiments.coverage.zoo.registry import Built, linen, models, tokens

Array = jax.Array
WIDTH, HIDDEN, VOCABULARY = 32, 64, 64
LLAMA: dict[str, Any] = {"groups": 2}


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

    layer: nn.Module
    count: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def step(layer: nn.Module, carry: Array) -> tuple[Array, None]:
            return layer(carry), None

        scan = nn.scan(
            step, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.count
        )
        return scan(self.layer, x)[0]


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


def dense() -> Feedforward:
    """Two dense layers."""
    return Feedforward(HIDDEN)


def block(
    attention: dict[str, Any], feedforward: Any = lambda: Gated(HIDDEN), norm: Any = RMSNorm,
    **options: Any,
) -> Layer:  # fmt: skip
    """A block whose attention has these options: causal and rotary, if nothing else is said."""
    how = {"rotary": True, "causal": True} | attention
    return Layer(Attention(**how), feedforward(), norm=norm, **options)


def decoder(*blocks: nn.Module, norm: Any = RMSNorm, **options: Any) -> Built:
    """The decoder of these blocks, on short texts."""
    return linen(Decoder(blocks, norm, **options), tokens(2, 12, vocabulary=VOCABULARY))


def twice(*args: Any, **options: Any) -> tuple[Layer, Layer]:
    """Two blocks of one kind."""
    return block(*args, **options), block(*args, **options)


def gemma2() -> Built:
    """Norms on both sides, whose scales are read as one more; logits of a bounded size."""

    def norm() -> RMSNorm:
        return RMSNorm(offset=1.0)

    blocks = twice({"groups": 1, "cap": 50.0}, lambda: Gated(HIDDEN, "gelu"), norm, post=True)
    return decoder(*blocks, norm=norm, tied=True, scaled=True)


def albert() -> Built:
    """The same block three times."""
    shared = block({"bias": True, "causal": False, "rotary": False}, dense, nn.LayerNorm)
    return decoder(shared, shared, shared, norm=nn.LayerNorm, positions="learned", narrow=16)


models(
    lm1b=lambda: decoder(
        *twice({"rotary": False}, lambda: Feedforward(HIDDEN, "relu"), nn.LayerNorm),
        norm=nn.LayerNorm,
        positions="sines",
    ),
    gpt2_fused=lambda: decoder(
        *(Layer(Fused(), dense()) for _ in range(2)),
        norm=nn.LayerNorm,
        positions="learned",
        tied=True,
    ),
    gptj_parallel=lambda: decoder(
        *twice({}, dense, nn.LayerNorm, parallel=True), norm=nn.LayerNorm
    ),
    llama=lambda: decoder(*twice(LLAMA)),
    scanned_llama=lambda: decoder(Scanned(block(LLAMA))),
    qwen3=lambda: decoder(*twice(LLAMA | {"normed": True}), tied=True),
    gemma2=gemma2,
    mixture_of_experts=lambda: decoder(*twice(LLAMA, Experts)),
    albert_shared=albert,
)
