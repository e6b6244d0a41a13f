"""Kernels in two factors run wherever the function casts them, at all sizes around them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
relu = jax.nn.relu
RNG = np.random.default_rng(0)
M = 16
LOW = jnp.asarray(np.outer(RNG.normal(size=M), RNG.normal(size=M)) / 4, jnp.float32)  # of rank one


def drawn(*shape):
    return placed(RNG.normal(size=shape) / np.prod(shape[:-1]) ** 0.5)


DENSE = {"a": drawn(6, M), "b": drawn(M, M), "d": LOW, "e": drawn(M, 3)}
CONV = DENSE | {"a": drawn(3, 3, 2, M), "b": drawn(1, 1, M, M), "d": LOW[None, None]}
WAYS = {
    "computed in bfloat16": lambda w: w.astype(jnp.bfloat16),
    "rounded to bfloat16": lambda w: w.astype(jnp.bfloat16).astype(w.dtype),
    "rounded, transposed": lambda w: w.astype(jnp.float16).swapaxes(-1, -2).swapaxes(-1, -2),
    "as it is": lambda w: w,
}


def times(x, w):
    return (x.astype(w.dtype) @ w).astype(x.dtype)


def convolved(x, w):
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x.astype(w.dtype), w, (1, 1), "SAME", dimension_numbers=layout)
    return y.astype(x.dtype)


def dense(way):
    def apply(p, x):
        h = relu(x @ p["a"])
        return (h + times(relu(times(h, way(p["b"]))), way(p["d"]))) @ p["e"]

    return apply, DENSE, jnp.asarray(np.random.default_rng(1).normal(size=(384, 6)), jnp.float32)


def images(way):
    def apply(p, x):
        h = relu(convolved(x, way(p["a"])))
        h = h + convolved(relu(convolved(h, way(p["b"]))), way(p["d"]))
        return h.mean((1, 2)) @ p["e"]

    x = np.random.default_rng(1).normal(size=(96, 5, 5, 2))
    return apply, CONV, jnp.asarray(x, jnp.float32)


@pytest.mark.quick(4)
@pytest.mark.parametrize("make", [dense, images])
@pytest.mark.parametrize("name", WAYS)
def test_factored_kernels_run_where_they_are_cast(make, name):
    """What is cast was fitted to the sizes of the whole kernel: a TypeError from a reshape."""
    apply, params, x = make(WAYS[name])
    net = linjax.trace(apply, params, x[:1])
    plain = linjax.trace(make(lambda w: w)[0], params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    factored = 0
    for share in (0.8, 0.6):
        small, report = linjax.fold_and_report(params, stats, linjax.size(share))
        factored += "d_down" in small
        y, z = np.asarray(jax.jit(apply)(params, x)), np.asarray(jax.jit(net.apply)(small, x))
        error = np.linalg.norm(z - y) / np.linalg.norm(y - y.mean(0))
        assert error <= 3 * report.predicted + 0.02
        np.testing.assert_allclose(z, jax.jit(plain.apply)(small, x), atol=0.02 * np.abs(y).max())
    assert factored
