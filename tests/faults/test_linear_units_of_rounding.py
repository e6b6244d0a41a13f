"""Linear units of sources that vary in few directions: no weights that are rounding alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax


@pytest.mark.quick(6)
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
    got, want = np.asarray(jax.jit(net.apply)(small, x)), np.asarray(jax.jit(apply)(params, x))
    error = np.linalg.norm(got - want) / np.linalg.norm(want - want.mean(axis=0))
    assert error <= 2 * report.predicted + 1e-3


def low_rank(seed, rank):
    """Units of few directions: many of them say nearly all of their sources."""
    rng = np.random.default_rng(seed)

    def normal(*s):
        return jnp.asarray(rng.normal(size=s), jnp.float32)

    params = {"w": (normal(16, rank) / 4) @ normal(rank, 40) / np.sqrt(rank), "b": normal(40) / 5}
    params |= {"v": normal(40, 20) / 6, "u": normal(20, 5) / 4}
    return params, normal(800, 16)


@pytest.mark.quick(6)
@pytest.mark.parametrize("rule", [linjax.tolerance(1e-5), linjax.tolerance(1e-3), linjax.size(0.3)])
@pytest.mark.parametrize(("seed", "rank"), [(0, 2), (2, 2), (11, 2), (0, 3)])
def test_directions_without_variance_are_predicted_to_say_nothing(seed, rank, rule):
    params, x = low_rank(seed, rank)

    def apply(p, x):
        return jax.nn.relu(x @ p["w"] + p["b"]) @ p["v"] @ p["u"]

    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x[:400], x[400:]], metric="identity")
    small, report = linjax.fold_and_report(params, stats, rule)
    error = linjax.compare(net, params, small, [x], metric="identity").error
    assert error <= 2 * report.predicted + 1e-4
