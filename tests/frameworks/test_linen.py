"""Linen: several collections, frozen dicts, setup and compact, shared submodules; Equinox."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.core import FrozenDict, freeze

import linjax
from tests.arrays import placed

X = placed(np.random.default_rng(0).normal(size=(80, 4)))


class Block(nn.Module):
    """Batch norm, a wide layer, dropout; two collections of variables."""

    training: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.training)(x)
        x = nn.Dropout(0.3, deterministic=not self.training)(nn.relu(nn.Dense(32)(x)))
        return nn.Dense(3)(x)


class Shared(nn.Module):
    """By setup; the submodule in the middle is called twice."""

    def setup(self):
        self.wide, self.narrow = nn.Dense(24), nn.Dense(16)
        self.again, self.last = nn.Dense(16), nn.Dense(3)

    def __call__(self, x):
        x = self.narrow(nn.relu(self.wide(x)))
        x = self.again(nn.softmax(self.again(x)))
        return self.last(nn.relu(x))


def trained(model):
    """Variables with statistics that aren't those of a fresh model."""
    variables = model.init(jax.random.key(1), X)
    if "batch_stats" in variables:
        training = Block(training=True)
        _, moved = training.apply(
            variables, 3 * X + 1, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
        )
        variables = {**variables, **moved}
    return variables


@pytest.mark.quick(6)
@pytest.mark.parametrize("wrap", [dict, freeze], ids=["dict", "frozen"])
@pytest.mark.parametrize("how", ["fold", "threshold", "compress", "prune", "recover", "lump"])
def test_collections_are_taken_along_and_the_type_comes_back(wrap, how):
    model = Block()
    variables = wrap(trained(model))
    if how == "lump":  # two units that are multiples of one another
        variables = jax.tree.map(jnp.asarray, variables)
        kernel = variables["params"]["Dense_0"]["kernel"]
        plain = dict(variables)
        plain["params"] = {**variables["params"], "Dense_0": {
            "kernel": kernel.at[:, 1].set(2 * kernel[:, 0]), "bias": jnp.zeros(32)}}  # fmt: skip
        variables = wrap(plain)
    net = linjax.trace(model.apply, variables, X[:1])
    assert [s.name for s in net.graph.sites] == ["Dense_0"]
    stats = linjax.collect(net, variables, [X])
    small = {
        "fold": lambda: linjax.fold(variables, stats, linjax.size(0.4)),
        "threshold": lambda: linjax.fold(variables, stats, linjax.threshold(0.3, layers=1)),
        "compress": lambda: linjax.compress(net, variables, [X], linjax.size(0.4)),
        "prune": lambda: linjax.prune(variables, stats, keep=0.5),
        "recover": lambda: linjax.recover(
            net, variables, linjax.prune(variables, stats, keep=0.5), [X], steps=10
        ),
        "lump": lambda: linjax.lump(net, variables),
    }[how]()
    assert type(small) is type(variables) is (FrozenDict if wrap is freeze else dict)
    assert linjax.count(small) < linjax.count(variables)
    if how != "recover":
        jax.tree.map(
            np.testing.assert_array_equal,
            dict(small["batch_stats"]),
            dict(variables["batch_stats"]),
        )
    assert net.apply(small, X).shape == (80, 3)
    again = linjax.collect(net, small, [X])
    linjax.fold(small, again, linjax.tolerance(0.1))


def test_a_shared_submodule_is_in_no_chain_and_the_rest_is_folded():
    variables = Shared().init(jax.random.key(0), X)
    net = linjax.trace(Shared().apply, variables, X[:1])
    assert "again" not in {name for chain in net.graph.chains for name in chain.maps}
    assert [(s.name, s.consumers) for s in net.graph.sites] == [("wide", ("narrow",))]


def test_equinox_comes_through_a_function():
    model = eqx.nn.MLP(4, 3, 32, 2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    net = linjax.trace(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, X[:1])
    small = linjax.compress(net, params, [X], linjax.size(0.3))
    assert linjax.count(small) <= 0.31 * linjax.count(params)
    want = jax.vmap(model)(X)
    assert float(jnp.abs(net.apply(small, X) - want).mean()) < 0.5 * float(jnp.abs(want).mean())
