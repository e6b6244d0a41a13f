"""Every activation folds: units that are affine on the data go, whatever the function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

RNG = np.random.default_rng(0)
X = placed(RNG.uniform(-1, 1, size=(400, 4)))
UNITS = 24


def bump(z):
    """A function that nobody has named."""
    return jnp.sin(z) * jnp.exp(-jnp.abs(z)) + 0.25 * z


FUNCTIONS = {
    "relu": (jax.nn.relu, 9.0),
    "relu6": (jax.nn.relu6, 3.0),
    "hard_tanh": (jax.nn.hard_tanh, 0.0),
    "leaky_relu": (jax.nn.leaky_relu, 9.0),
    "elu": (jax.nn.elu, 9.0),
    "selu": (jax.nn.selu, 9.0),
    "gelu": (lambda z: jax.nn.gelu(z, approximate=False), 9.0),
    "gelu (tanh)": (jax.nn.gelu, 9.0),
    "silu": (jax.nn.silu, 16.0),
    "softplus": (jax.nn.softplus, 16.0),
    "tanh": (jnp.tanh, 12.0),
    "sigmoid": (jax.nn.sigmoid, -20.0),
    "hard_silu": (jax.nn.hard_silu, 9.0),
    "hard_sigmoid": (jax.nn.hard_sigmoid, 0.0),
    "abs": (jnp.abs, -9.0),
    "squared_relu": (lambda z: jax.nn.relu(z) ** 2, -9.0),
    "bump": (bump, 30.0),
}
"""Each with a bias at which it is affine on small pre-activations."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_units_in_an_affine_part_lose_their_activation(name):
    """Half of the units stand where the function is affine, a few are doubles of others."""
    function, shift = FUNCTIONS[name]
    rng = np.random.default_rng(len(name))
    kernel = rng.normal(size=(4, UNITS)) * 1.5
    bias = rng.normal(size=UNITS)
    affine = np.arange(UNITS) < UNITS // 2
    kernel[:, affine] *= 0.15
    bias[affine] = shift
    kernel[:, -1], bias[-1] = kernel[:, -2], bias[-2]
    params = {
        "a": {"w": jnp.asarray(kernel, jnp.float32), "b": jnp.asarray(bias, jnp.float32)},
        "c": {"w": jnp.asarray(rng.normal(size=(UNITS, 3)), jnp.float32), "b": jnp.zeros(3)},
    }

    def apply(p, x):
        return function(x @ p["a"]["w"] + p["a"]["b"]) @ p["c"]["w"] + p["c"]["b"]

    net = linjax.trace(apply, params, X[:1])
    (site,) = net.graph.sites
    if name != "bump":
        assert site.activation.name.split("(")[0].strip() == name.split("(")[0].strip()
    stats = linjax.collect(net, params, [X], metric="identity")
    scores = linjax.score(params, stats)["a"]
    assert scores.r2[affine].min() > 0.999 or scores.error[affine].max() < 1e-6
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(0.01))
    site = report.sites["a"]
    # Eleven units that bend and differ, and at most as many directions as there are inputs.
    assert len(site.kept) + site.linears <= 11 + 4 + 1
    assert not {UNITS - 1, UNITS - 2} <= set(site.kept.tolist())
    want = apply(params, X)
    error = jnp.linalg.norm(jax.jit(net.apply)(small, X) - want) / jnp.linalg.norm(
        want - want.mean(0)
    )
    assert float(error) < 0.03


def test_prelu_with_a_slope_a_channel():
    params = {
        "a": jnp.asarray(RNG.normal(size=(4, 8)), jnp.float32),
        "slope": jnp.linspace(0.1, 0.8, 8),
        "c": jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32),
    }

    def apply(p, x):
        z = x @ p["a"]
        return jnp.where(z >= 0, z, p["slope"] * z) @ p["c"]

    net = linjax.trace(apply, params, X[:1])
    stats = linjax.collect(net, params, [X], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.8))
    kept = report.sites["a"].kept
    assert len(kept) < 8 and small["slope"].shape == kept.shape
    np.testing.assert_array_equal(small["slope"], params["slope"][kept])
    want = apply(params, X)
    assert float(jnp.abs(jax.jit(net.apply)(small, X) - want).max()) < 0.5 * float(
        jnp.abs(want).max()
    )
