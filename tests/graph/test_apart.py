"""Kernels whose results are cut apart: queries, keys and values of one product, two branches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import linjax

WIDTH, HEADS = 12, 3


def attention(params, x, cut):
    """One block of attention, its first product fused, and a feed-forward block."""
    rows, length, _ = x.shape
    fused = x @ params["qkv"]["kernel"]
    if "bias" in params["qkv"]:
        fused = fused + params["qkv"]["bias"]
    parts = jnp.split(fused, 3, -1) if cut == "split" else (
        fused[..., :WIDTH], fused[..., WIDTH:-WIDTH], fused[..., -WIDTH:])  # fmt: skip
    q, k, v = (part.reshape(rows, length, HEADS, -1) for part in parts)
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(rows, length, WIDTH)
    x = x + mixed @ params["out"]
    x = x + jax.nn.relu(x @ params["up"]) @ params["down"]
    return x.mean(1) @ params["head"]


def fused_params(bias):
    rng = np.random.default_rng(0)
    shapes = {"out": (WIDTH, WIDTH), "up": (WIDTH, 20), "down": (20, WIDTH), "head": (WIDTH, 3)}
    params = {n: jnp.asarray(rng.normal(size=s) / 3, jnp.float32) for n, s in shapes.items()}
    kernel = jnp.asarray(rng.normal(size=(WIDTH, 3 * WIDTH)) / 3, jnp.float32)
    params["qkv"] = {"kernel": kernel}
    if bias:
        params["qkv"]["bias"] = jnp.asarray(rng.normal(size=3 * WIDTH), jnp.float32)
    return params


@pytest.mark.parametrize(("cut", "bias"), [("split", True), ("slices", True), ("slices", False)])
def test_values_of_a_fused_kernel_fold(cut, bias):
    """Values of rank two in every head, in one kernel with queries and keys."""

    def apply(params, x):
        return attention(params, x, cut)

    params, rng = fused_params(bias), np.random.default_rng(2)
    mix = rng.normal(size=(HEADS, 4, 2)) @ rng.normal(size=(HEADS, 2, 4)) / 2
    for name, leaf in params["qkv"].items():
        value = np.asarray(leaf)[..., -WIDTH:].reshape(-1, HEADS, 4)
        low = np.einsum("phw,hwr->phr", value, mix).reshape(*leaf.shape[:-1], WIDTH)
        params["qkv"][name] = leaf.at[..., -WIDTH:].set(low)
    x = jnp.asarray(rng.normal(size=(300, 5, WIDTH)), jnp.float32)
    whole = linjax.trace(apply, params, x[:2])
    assert not whole.graph.heads
    parts_apply, parts = linjax.apart(apply, params, x[:2])
    assert sorted(parts["qkv"]) == ["0", "1", "2"]
    np.testing.assert_array_equal(parts_apply(parts, x), apply(params, x))
    net = linjax.trace(parts_apply, parts, x[:2])
    np.testing.assert_allclose(net.apply(parts, x), apply(params, x), atol=1e-4)
    (site,) = net.graph.heads
    assert (site.name, site.heads, site.width) == ("qkv/2", HEADS, 4)
    stats = linjax.collect(net, parts, [x[:150], x[150:]], metric="identity")
    small = linjax.fold(parts, stats, linjax.tolerance(2e-3))
    assert small["qkv"]["2"]["kernel"].shape == (WIDTH, HEADS * 2)
    want = apply(params, x)
    assert float(jnp.sqrt(jnp.mean((net.apply(small, x) - want) ** 2)) / jnp.std(want)) < 5e-3


class Branches(nnx.Module):
    """One product for two branches of a different width and activation."""

    def __init__(self, rngs: nnx.Rngs):
        self.both = nnx.Linear(6, 28, rngs=rngs)
        self.left, self.right = nnx.Linear(10, 4, rngs=rngs), nnx.Linear(18, 4, rngs=rngs)

    def __call__(self, x):
        z = self.both(x)
        left, right = z[:, :10], z[:, 10:]
        return self.left(nnx.relu(left)) + jnp.tanh(self.right(nnx.gelu(right)))


def test_branches_of_one_kernel_fold_by_themselves():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(200, 6)), jnp.float32)
    model = Branches(nnx.Rngs(0))
    model.both.bias[...] = model.both.bias[...].at[jnp.array([2, 3, 15])].set(-90.0)  # never on
    net, params = linjax.from_nnx(model, x[:2], apart=True)
    assert [(site.name, site.width) for site in net.graph.sites] == [("both/0", 10), ("both/1", 18)]
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold(params, stats, linjax.tolerance(1e-3), details=True)
    assert not {2, 3} & set(report.sites["both/0"].kept.tolist())
    assert 5 not in report.sites["both/1"].kept
    np.testing.assert_allclose(net.apply(small, x), model(x), atol=2e-2)


def test_results_that_overlap_stay_whole():
    def apply(params, x):
        z = x @ params["w"]
        return jax.nn.relu(z[:, :4]) @ params["v"] + jax.nn.relu(z[:, 2:]) @ params["v"]

    params = {"w": jnp.ones((3, 6)), "v": jnp.ones((4, 2))}
    with pytest.raises(linjax.StructureError, match="or makes what is cut"):
        linjax.apart(apply, params, jnp.ones((2, 3)))
    net = linjax.trace(apply, params, jnp.ones((2, 3)))
    assert "cut apart" in dict(net.graph.refusals)["w"] and not net.graph.sites
