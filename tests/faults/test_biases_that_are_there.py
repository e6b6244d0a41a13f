"""Biases take what a fold adds, also of kernels that are used twice; none of zeros is added."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import normal

PARAMS = {
    "in": normal(0, 8, 20),
    "in_bias": normal(1, 20),
    "out": normal(2, 20, 6).at[:3].set(0),
    "bias": normal(3, 6),
}
X, Y = 3 * normal(4, 256, 8), 3 * normal(5, 256, 8)


def encode(p, x):
    return jax.nn.relu(x @ p["in"] + p["in_bias"]) @ p["out"] + p["bias"]


TWICE = {
    "product": lambda p, x, y: encode(p, x) * encode(p, y),
    "distance": lambda p, x, y: jnp.square(encode(p, x) - encode(p, y)),
    "one after the other": lambda p, x, y: encode(p, jnp.pad(encode(p, x), ((0, 0), (0, 2))) + y),
}


@pytest.mark.parametrize("apply", TWICE.values(), ids=TWICE.keys())
def test_the_bias_of_a_kernel_that_is_used_twice(apply):
    net = linjax.trace(apply, PARAMS, X[:2], Y[:2])
    stats = linjax.collect(net, PARAMS, [(X, Y)], metric="identity")
    without = linjax.count(PARAMS) - 3 * (8 + 1 + 6)
    exact = linjax.fold(PARAMS, stats, linjax.size((without + 0.5) / linjax.count(PARAMS)))
    assert exact.keys() == PARAMS.keys()
    assert linjax.count(exact) == without
    np.testing.assert_allclose(net.apply(exact, X, Y), apply(PARAMS, X, Y), rtol=1e-4, atol=1e-4)
    small, report = linjax.fold_and_report(PARAMS, stats, linjax.size(0.6))
    found = linjax.compare(net, PARAMS, small, [(X, Y)], metric="identity")
    assert "out_bias" not in small
    assert report.predicted / 3 < found.error < 3 * report.predicted


def test_another_bias_behind_each_use_stays_as_it_is():
    def apply(p, x, y):
        h = [jax.nn.relu(v @ p["in"] + p["in_bias"]) @ p["out"] for v in (x, y)]
        return (h[0] + p["bias"]) * (h[1] + p["other"])

    params = {**PARAMS, "other": normal(6, 6)}
    net = linjax.trace(apply, params, X[:2], Y[:2])
    stats = linjax.collect(net, params, [(X, Y)], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.7))
    np.testing.assert_array_equal(small["bias"], params["bias"])
    found = linjax.compare(net, params, small, [(X, Y)], metric="identity")
    assert report.predicted / 3 < found.error < 3 * report.predicted
