"""Constants that a function closes over, or spreads parameters by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import normal

PARAMS = {"in": normal(0, 6, 12), "by": normal(1, 12), "out": normal(2, 12, 3).at[3:9].set(0)}
X = normal(3, 96, 6) * 3


def hidden(p, x):
    return jax.nn.relu(x @ p["in"])


SPREAD = {
    "ones times": lambda p, x: (p["by"] * jnp.ones((len(x), 12)) * hidden(p, x)) @ p["out"],
    "zeros plus": lambda p, x: (
        jax.nn.relu(x @ p["in"] + (jnp.zeros((len(x), 12)) + p["by"])) @ p["out"]
    ),
    "full, in 3 axes": lambda p, x: (
        jax.nn.relu(x[:, None] @ p["in"] + jnp.full((len(x), 1, 12), 0.5) * p["by"])[:, 0]
        @ p["out"]
    ),
    "zeros like": lambda p, x: (
        (lambda z: jax.nn.relu(z + (jnp.zeros_like(z) + p["by"])))(x @ p["in"]) @ p["out"]
    ),
}


@pytest.mark.parametrize("apply", SPREAD.values(), ids=SPREAD.keys())
def test_parameters_beside_a_spread_constant_fold(apply):
    net = linjax.trace(apply, PARAMS, X[:2])
    stats = linjax.collect(net, PARAMS, [X], metric="identity")
    small = linjax.fold(PARAMS, stats, linjax.size(0.53))
    assert small["in"].shape[1] < 12
    np.testing.assert_allclose(net.apply(small, X), apply(PARAMS, X), atol=1e-5)


@pytest.mark.parametrize("size", [0.95, 0.8, 0.6, 0.4])
def test_a_constant_that_reads_units_is_no_part_of_the_size(size):
    out = normal(2, 12, 3)
    params = {"in": PARAMS["in"]}
    net = linjax.trace(lambda p, x: hidden(p, x) @ out, params, X[:2])
    stats = linjax.collect(net, params, [X], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(size))
    assert linjax.count(small) == 6 * int(12 * size)  # as many units as fit, no fewer
    assert linjax.count(small) == report.after
    again = linjax.collect(net, small, [X], metric="identity")
    assert linjax.count(linjax.fold(small, again, linjax.size(0.5))) <= report.after / 2


@pytest.mark.parametrize("read", [(3, 4), (4, 3)])
def test_a_dimension_that_meets_itself_has_one_size(read):
    def apply(p, x):
        h = hidden(p, x).reshape(len(x), *read)
        return jnp.einsum("bij,bkj->bik", h, h).reshape(len(x), -1) @ p["out"]

    params = {"in": PARAMS["in"], "out": normal(4, read[0] ** 2, 3)}
    net = linjax.trace(apply, params, X[:2])
    np.testing.assert_allclose(net.run(params, X).outputs, apply(params, X), atol=1e-5)
    stats = linjax.collect(net, params, [X], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.8))
    found = linjax.compare(net, params, small, [X], metric="identity")
    assert linjax.count(small) < linjax.count(params)
    assert report.predicted / 3 < found.error < 3 * report.predicted


def test_a_kernel_that_meets_data_without_a_product_is_told():
    def apply(p, x):
        return jnp.exp(-((x[:, None] - p["centres"]) ** 2).sum(-1)) @ p["out"]

    net = linjax.trace(apply, {"centres": normal(0, 12, 6), "out": PARAMS["out"]}, X[:2])
    assert "centres" in str(net).split("left alone")[1]
