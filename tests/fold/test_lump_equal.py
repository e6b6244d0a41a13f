"""Equal units are joined behind any activation, and where kernels are computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import normal

KERNEL = normal(0, 6, 10).at[:, 1].set(normal(0, 6, 10)[:, 0])
PARAMS = {"in": KERNEL, "scale": jnp.ones(10), "out": normal(1, 10, 3)}
X = 3 * normal(2, 50, 6)
NAMES = ("gelu", "silu", "elu", "tanh", "sigmoid", "softplus", "relu")


def dense(name):
    return lambda p, x: getattr(jax.nn, name)(x @ p["in"]) @ p["out"]


def conv(name):
    def apply(p, x):
        kernel = p["in"].T[:, :, None, None]
        h = jax.lax.conv(x[:, :, None, None], kernel, (1, 1), "SAME")
        return getattr(jax.nn, name)(h).mean((2, 3)) @ p["out"]

    return apply


COMPUTED = {
    "times a number": lambda p, x: jax.nn.relu(x @ (p["in"] * 0.5)) @ p["out"],
    "times a scale": lambda p, x: jax.nn.relu(x @ (p["in"] * p["scale"])) @ p["out"],
    "clipped": lambda p, x: jax.nn.gelu(x @ jnp.clip(p["in"], -0.2, 0.2)) @ p["out"],
}


@pytest.mark.parametrize("apply", [*map(dense, NAMES), *map(conv, NAMES[:2]), *COMPUTED.values()])
def test_equal_units_become_one(apply):
    net = linjax.trace(apply, PARAMS, X[:2])
    small, reports = linjax.lump_and_report(net, PARAMS)
    assert small["in"].shape == (6, 9)
    assert any(sum(own.kept) < sum(own.units) for own in reports)
    np.testing.assert_allclose(net.apply(small, X), apply(PARAMS, X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["in", "scale"])
def test_units_that_differ_in_what_makes_them_stay(how):
    params = {**PARAMS, how: PARAMS[how].at[..., 0].multiply(1.5)}
    net = linjax.trace(COMPUTED["times a scale"], params, X[:2])
    with pytest.warns(linjax.FoldWarning, match="nothing was lumped"):
        assert linjax.lump(net, params) is params


def test_the_warning_names_what_nothing_is_known_of():
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["in"]) @ (p["out"] * 0.5), PARAMS, X[:2])
    with pytest.warns(linjax.FoldWarning, match="nothing is known of in"):
        linjax.lump(net, PARAMS)
