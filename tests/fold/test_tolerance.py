"""``compress`` by a tolerance: the error that was asked for is the one measured."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.fold.rows import divided, load
from tests.fold.images import residual, smooth


def dense(params, x):
    for name in sorted(params)[:-1]:
        x = jax.nn.relu(x @ params[name])
    return x @ params[max(params)]


def dense_params(widths=(16, 32, 32, 4)):
    rng = np.random.default_rng(0)
    return {
        f"layer{i}": jnp.asarray(rng.normal(size=(p, q)) * np.sqrt(2 / p), jnp.float32)
        for i, (p, q) in enumerate(itertools.pairwise(widths))
    }


@pytest.mark.parametrize(
    ("apply", "params", "shape", "error"),
    [(dense, dense_params(), (16,), 0.2), (residual()[0], residual()[1], (4, 4, 2), 0.15)],
    ids=["dense", "convolutions"],
)
def test_the_measured_error_is_within_the_tolerance(apply, params, shape, error):
    x = smooth(shape, 500)
    net = linjax.trace(apply, params, x[:2])
    rule = linjax.tolerance(error)
    small = linjax.compress(net, params, [x], rule, metric="identity", joint=False)
    held = divided(load(net, [x]))[1]
    found = linjax.compare(net, params, small, [held], metric="identity")
    assert 0.5 * error < found.error <= error
    assert found.after < 0.9 * found.before


def test_nothing_is_done_where_no_error_is_allowed():
    params, x = dense_params((6, 9, 3)), smooth((6,), 300)
    net = linjax.trace(dense, params, x[:2])
    with pytest.warns(linjax.FoldWarning, match="nothing was compressed"):
        small = linjax.compress(net, params, [x], linjax.tolerance(0.0), metric="identity")
    assert small is params
