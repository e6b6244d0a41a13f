"""Batch norm in inference: multiplied into the kernel in front of it, dense or convolutional."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import linjax


class Net(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 24, rngs=rngs, use_bias=False)
        self.norm = nnx.BatchNorm(24, rngs=rngs)
        self.second = nnx.Linear(24, 16, rngs=rngs)
        self.last_norm = nnx.BatchNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.first(x)))
        return self.head(jax.nn.gelu(self.last_norm(self.second(x))))


@pytest.fixture(scope="module")
def traced():
    model = Net(nnx.Rngs(0))
    model.train()
    x = jax.random.normal(jax.random.key(0), (400, 6))
    for norm in (model.norm, model.last_norm):
        norm.momentum = 0.0
        norm.bias[...] = jax.random.normal(jax.random.key(1), norm.bias.shape)
        norm.scale[...] = jax.random.normal(jax.random.key(2), norm.scale.shape)
    model(x)
    model.eval()
    graph, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    return linjax.trace(lambda p, x: nnx.merge(graph, p)(x), params, x[:2]), params, x


def by_hand(params):
    """The same network without batch norm."""
    folded = {"head": params["head"]}
    for name, norm in (("first", "norm"), ("second", "last_norm")):
        p, n = params[name], params[norm]
        factor = n["scale"] / np.sqrt(n["var"] + 1e-5)
        shift = (p.get("bias", 0.0) - n["mean"]) * factor + n["bias"]
        folded[name] = {"kernel": p["kernel"] * factor, "bias": shift}
    return folded


def test_sites_are_found_behind_batch_norm(traced):
    net, _, _ = traced
    assert [(s.name, s.activation.name) for s in net.graph.sites] == [
        ("first", "relu"), ("second", "gelu (tanh)"),
    ]  # fmt: skip
    assert not net.graph.refusals


def test_folding_is_as_by_hand(traced):
    net, params, x = traced

    def plain(p, x):
        x = jax.nn.relu(x @ p["first"]["kernel"] + p["first"]["bias"])
        x = jax.nn.gelu(x @ p["second"]["kernel"] + p["second"]["bias"])
        return x @ p["head"]["kernel"] + p["head"]["bias"]

    hand = by_hand(params)
    other = linjax.trace(plain, hand, x[:2])
    np.testing.assert_allclose(plain(hand, x), net.apply(params, x), atol=1e-5)
    budget, results = 0.4 * linjax.count(hand), []
    for n, p in ((net, params), (other, hand)):
        stats = linjax.collect(n, p, [x[:200], x[200:]], metric="identity")
        small = linjax.fold(p, stats, linjax.size(budget / linjax.count(p)))
        results.append((linjax.count(small), n.apply(small, x), stats.rates["first"]))
    assert max(results[0][0], results[1][0]) <= budget  # a norm that stays costs its own entries
    want = np.asarray(plain(hand, x))
    for _, got, _ in results:
        assert np.linalg.norm(got - want) < 0.2 * np.linalg.norm(want - want.mean(0))
    np.testing.assert_allclose(results[0][2], results[1][2], atol=0.01)


def test_threshold_and_lump_multiply_it_in_exactly(traced):
    net, params, x = traced
    norm = dict(params["norm"], bias=params["norm"]["bias"].at[:20].set(30.0))
    params = {**params, "norm": norm}
    stats = linjax.collect(net, params, [x], second_moments=False)
    with pytest.warns(linjax.FoldWarning):  # gelu isn't linear where it is on
        small = linjax.fold(params, stats, linjax.threshold(1.0))
    assert "norm" not in small
    np.testing.assert_allclose(jax.jit(net.apply)(small, x), net.apply(params, x), atol=2e-3)


def test_a_pytree_without_part_of_it_is_refused(traced):
    net, params, x = traced
    broken = {**params, "norm": {k: v for k, v in params["norm"].items() if k != "var"}}
    with pytest.raises(linjax.StructureError, match="norm/var"):
        net.apply(broken, x)
    narrow = {**params, "norm": jax.tree.map(lambda leaf: leaf[:5], params["norm"])}
    with pytest.raises(linjax.StructureError, match="norm/bias, axis 0: 5 entries, expected 24"):
        net.apply(narrow, x)


def test_gradients_flow_through_the_merged_network(traced):
    net, params, x = traced
    small = linjax.fold(
        params, linjax.collect(net, params, [x]), linjax.size(0.5)
    )  # fmt: skip
    grads = jax.grad(lambda p: jnp.sum(net.apply(p, x) ** 2))(small)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
