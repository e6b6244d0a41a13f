"""Linear units of sources that vary in few directions: no weights that are rounding alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.9, 0.8, 0.7, 0.6])
def test_what_is_predicted_is_measured(seed, share):
    rng = np.random.default_rng(seed)
    normal = lambda *s: jnp.asarray(rng.normal(size=s) * 0.5, jnp.float32)  # noqa: E731
    x = normal(300, 8)
    params = {"w": normal(8, 48), "v": normal(48, 4), "b": normal(48)}
    params |= {name: jnp.sort(params[name], axis=0) for name in "wv"}

    def apply(p, x):
        return jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"]

    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(share))
    got, want = np.asarray(jax.jit(net.apply)(small, x)), np.asarray(apply(params, x))
    error = np.linalg.norm(got - want) / np.linalg.norm(want - want.mean(axis=0))
    assert error <= 2 * report.predicted + 1e-3
