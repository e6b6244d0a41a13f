"""Transformers: feed-forward blocks fold, sequence and batch axes being samples."""

import time

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import linjax
from linjax.dims.sites import Form


class Block(nnx.Module):
    """Attention and a feed-forward network, gated or not, around a stream."""

    def __init__(self, width, hidden, gated, rngs):
        self.before, self.between = nnx.LayerNorm(width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, width, decode=False, rngs=rngs)
        self.up, self.down = (
            nnx.Linear(width, hidden, rngs=rngs),
            nnx.Linear(hidden, width, rngs=rngs),
        )
        self.gate = nnx.Linear(width, hidden, rngs=rngs) if gated else None

    def __call__(self, x, mask):
        x = x + self.attention(self.before(x), mask=mask)
        v = self.between(x)
        if self.gate is None:
            return x + self.down(nnx.gelu(self.up(v)))
        return x + self.down(nnx.silu(self.gate(v)) * self.up(v))


class Transformer(nnx.Module):
    """Blocks on embedded tokens, under remat."""

    def __init__(self, blocks, width, hidden, gated, rngs):
        self.embed = nnx.Embed(20, width, rngs=rngs)
        self.blocks = nnx.List(Block(width, hidden, gated, rngs) for _ in range(blocks))
        self.head = nnx.Linear(width, 20, rngs=rngs)

    def __call__(self, tokens):
        x, mask = self.embed(tokens), nnx.make_causal_mask(tokens)
        for block in self.blocks:
            x = nnx.remat(lambda b, x: b(x, mask))(block, x)
        return self.head(x)


TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 20, (40, 7)))


@pytest.mark.parametrize("gated", [False, True])
def test_dead_and_double_units_of_the_blocks_go(gated):
    net, params = linjax.from_nnx(Transformer(2, 8, 24, gated, nnx.Rngs(0)), TOKENS[:1])
    blocks = [s.name for s in net.network.sites if s.form is Form.BENT]
    assert blocks == [f"blocks/{i}/{'gate' if gated else 'up'}" for i in range(2)]
    for block in params["blocks"].values():
        first = block["gate" if gated else "up"]
        first["bias"] = first["bias"].at[:8].set(-90.0)  # off for every token
        for part in ("gate", "up") if gated else ("up",):
            block[part]["kernel"] = block[part]["kernel"].at[:, 9].set(block[part]["kernel"][:, 8])
    stats = linjax.collect(net, params, [TOKENS[:20], TOKENS[20:]])
    assert all(sum(own[0].count) == 40 * 7 for own in stats.points)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(0.02))
    for site in map(report.sites.__getitem__, blocks):
        kept = set(site.kept.tolist())  # at least one, whichever it is
        assert len(kept) == 1 or (min(kept) >= 8 and not {8, 9} <= kept)
    want = net.apply(params, TOKENS)
    error = jnp.linalg.norm(net.apply(small, TOKENS) - want) / jnp.linalg.norm(want)
    assert float(error) < 0.05
    longer = jnp.concatenate([TOKENS, TOKENS], axis=1)  # another length of the sequence
    assert net.apply(small, longer).shape == (40, 14, 20)


def test_tracing_24_blocks_takes_seconds():
    model = Transformer(24, 8, 24, True, nnx.Rngs(0))
    start = time.process_time()
    net, _ = linjax.from_nnx(model, TOKENS[:1])
    assert time.process_time() - start < 10
    gated = [site for site in net.network.sites if site.form is Form.BENT]
    assert len(gated) == 24 and all(len(site.makers) == 2 for site in gated)
