"""Leaves that aren't arrays are named, with the way out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax

X = jnp.ones((3, 4))
P = {"w": jnp.ones((4, 8)), "v": jnp.ones((8, 2))}


def apply(p, x):
    return jax.nn.relu(x @ p["w"]) @ p["v"]


@pytest.mark.parametrize("leaf", [jax.nn.relu, "relu", b"relu", object(), jnp.float32])
def test_the_leaf_is_named(leaf):
    params = {**P, "layers": [{"activation": leaf}]}
    with pytest.raises(linjax.StructureError, match=r"layers/0/activation: a .*eqx\.partition"):
        linjax.trace(apply, params, X)


@pytest.mark.parametrize("leaf", [None, 1.0, 2, True, np.float32(3), np.ones(3)])
def test_numbers_are_leaves(leaf):
    assert linjax.trace(apply, {**P, "more": leaf}, X).graph.sites


def test_the_way_out_for_modules():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(4, 2, 32, 1, key=jax.random.key(0))
    with pytest.raises(linjax.StructureError, match="activation: a "):
        linjax.trace(lambda m, x: jax.vmap(m)(x), model, X)
    arrays, static = eqx.partition(model, eqx.is_array)
    net = linjax.trace(lambda p, x: jax.vmap(eqx.combine(p, static))(x), arrays, X)
    assert len(net.graph.sites) == 1
