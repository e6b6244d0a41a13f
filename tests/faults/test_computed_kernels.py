"""Kernels that the function rounds or clips on the way from the leaf: no crash, no damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

RNG = np.random.default_rng(0)
P = {
    "w": jnp.asarray(RNG.normal(size=(8, 48)) * 3, jnp.float32),
    "v": jnp.asarray(RNG.normal(size=(48, 4)) * 3, jnp.float32),
}
X = placed(RNG.normal(size=(400, 8)))

WAYS = {
    "int8": lambda w: w.astype(jnp.int8).astype(jnp.float32),
    "float8": lambda w: w.astype(jnp.float8_e4m3fn).astype(jnp.float32),
    "clipped": lambda w: jnp.clip(w, -2.0, 2.0),
    "squared": lambda w: w * jnp.abs(w),
}


@pytest.mark.quick(6)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("which", ["both", "maker", "reader"])
def test_the_arithmetic_is_kept(way, which):
    first = WAYS[way] if which != "reader" else lambda w: w
    last = WAYS[way] if which != "maker" else lambda w: w

    def apply(params, x):
        return jax.nn.relu(x @ first(params["w"])) @ last(params["v"])

    net, want = linjax.trace(apply, P, X[:1]), apply(P, X)
    np.testing.assert_allclose(net.run(P, X).outputs, want, rtol=1e-5, atol=1e-4)
    try:
        stats = linjax.collect(net, P, [X], metric="identity")
    except linjax.StructureError as error:
        assert "no foldable site" in str(error)
        return
    small, report = linjax.fold_and_report(P, stats, linjax.size(0.9))
    assert linjax.count(small) <= 0.9 * linjax.count(P)
    got = np.asarray(jax.jit(net.apply)(small, X))
    error = np.linalg.norm(got - want) / np.linalg.norm(want - np.mean(want, axis=0))
    assert error <= 3 * report.predicted + 1e-3
