"""Scanned layers are refused with the way out, and fold layer by layer once unrolled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import linjax

X = jnp.asarray(np.random.default_rng(0).normal(size=(60, 4)), jnp.float32)


class Block(nn.Module):
    """A residual block with layer norm; also returns something per layer."""

    @nn.compact
    def __call__(self, x, _):
        x = x + nn.Dense(4)(nn.relu(nn.Dense(16)(nn.LayerNorm()(x))))
        return x, x.mean()


class Linen(nn.Module):
    """Three scanned blocks and a head."""

    remat: bool = False

    @nn.compact
    def __call__(self, x):
        block = nn.remat(Block) if self.remat else Block
        scan = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, means = scan(name="blocks")(x, None)
        return nn.Dense(2)(x), means


class Layer(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.relu(self.up(x)))


class Scanned(nnx.Module):
    """Three scanned layers and a head."""

    def __init__(self, rngs):
        make = nnx.vmap(Layer, in_axes=(0,), out_axes=0)
        self.blocks = nnx.split_rngs(splits=3)(make)(rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        run = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return self.head(run(x, self.blocks))


@pytest.mark.parametrize("remat", [False, True])
def test_linen_scan(remat):
    model = Linen(remat)
    variables = model.init(jax.random.key(0), X)
    net = linjax.trace(model.apply, variables, X)
    assert not net.graph.sites
    assert any("linjax.unroll" in r.reason for r in net.graph.refusals)
    apply, params = linjax.unroll(model.apply, variables, X[:1])
    want = model.apply(variables, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), apply(params, X), want)
    assert linjax.count(params) == linjax.count(variables)
    net = linjax.trace(apply, params, X[:1])
    assert [s.width for s in net.graph.sites] == [16, 16, 16]
    kernels = ("params", "blocks", "Dense_1")
    assert net.graph.affine(net.graph.sites[2].producer).kernel == (*kernels, "2", "kernel")
    for layer in range(3):  # one layer dead, the others always on
        part = params["params"]["blocks"]["Dense_1"][str(layer)]
        part["bias"] = part["bias"] + (-90.0 if layer == 1 else 90.0)
    stats = linjax.collect(net, params, [X])
    small = linjax.fold(params, stats, linjax.tolerance(1e-3))
    want, have = apply(params, X), net.apply(small, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), have, want)
    assert linjax.count(small) < 0.5 * linjax.count(params)


def test_nnx_scan():
    model = Scanned(nnx.Rngs(0))
    net, params = linjax.from_nnx(model, X[:1], unroll=True)
    assert [s.name for s in net.graph.sites] == [f"blocks/up/{i}" for i in range(3)]
    small = linjax.fold(params, linjax.collect(net, params, [X]), linjax.size(0.5))
    module = linjax.to_nnx(net, small)
    np.testing.assert_allclose(module(X), net.apply(small, X), rtol=1e-6)
    kinds = {type(v) for _, v in nnx.to_flat_state(nnx.state(module))}
    assert kinds == {nnx.Param}


def test_reverse_scan_in_jit_with_constants_and_other_readers():
    rng = np.random.default_rng(1)
    params = {
        "w": jnp.asarray(rng.normal(size=(3, 4, 4)) / 2),
        "c": jnp.asarray(rng.normal(size=4)),
    }

    @jax.jit
    def layers(params, x):
        def step(h, each):
            h = jnp.tanh(h @ each["w"] + params["c"]) + each["x"]
            return h, h.sum()

        return jax.lax.scan(step, x, {"w": params["w"], "x": jnp.arange(3.0)}, reverse=True)

    def apply(params, x):
        return layers(params, x), params["w"].sum()

    unrolled, apart = linjax.unroll(apply, params, X)
    assert sorted(apart) == ["0", "1", "2", "c"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        jax.jit(unrolled)(apart, X), apply(params, X),
    )  # fmt: skip


def test_nothing_to_unroll():
    with pytest.raises(linjax.StructureError, match="nothing to unroll"):
        linjax.unroll(lambda p, x: x @ p["w"], {"w": jnp.ones((4, 2))}, X)
