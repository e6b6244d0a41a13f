"""Scales and offsets that are one for all units of a layer, and layers that no rate speaks of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed


def draw(rng, *shape):
    return placed(rng.normal(size=shape) / np.sqrt(shape[0]))


def network(kind, shape):
    rng = np.random.default_rng(2)
    params = {"a": draw(rng, 6, 24), "b": 1 + draw(rng, 24), "o": draw(rng, 24, 3)}
    params["s"] = jnp.full(shape, 1.3)
    if kind == "two":
        params |= {"c": draw(rng, 24, 24), "d": 1 + draw(rng, 24)}
    if kind == "alone":
        del params["b"]
    x = jnp.asarray(rng.normal(size=(300, 6)), jnp.float32)

    def apply(p, x):
        s = p["s"]
        if kind == "behind":
            return (jax.nn.relu(x @ p["a"] + p["b"]) * s) @ p["o"]
        if kind == "alone":
            return jax.nn.relu(x @ p["a"] + s) @ p["o"]
        h = jax.nn.relu(x @ p["a"] * s + p["b"])
        return h @ p["o"] if kind == "one" else jax.nn.relu(h @ p["c"] * s + p["d"]) @ p["o"]

    return apply, params, x


@pytest.mark.quick(8)
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("kind", ["one", "two", "behind", "alone"])
@pytest.mark.parametrize("rule", [linjax.tolerance(0.3), linjax.size(0.1), linjax.size(0.3)])
def test_a_scalar_stays_when_all_units_go(kind, shape, rule):
    apply, params, x = network(kind, shape)
    net = linjax.trace(apply, params, x)
    stats = linjax.collect(net, params, [x], metric="identity")
    small, report = linjax.fold_and_report(params, stats, rule)
    assert linjax.count(small) < linjax.count(params)
    net.check(small)
    error = linjax.compare(net, params, small, [x], metric="identity").error
    assert error <= 1.5 * report.predicted + 1e-3
    again = linjax.collect(net, small, [x], metric="identity")
    assert np.isfinite(net.apply(linjax.fold(small, again, linjax.tolerance(0.1)), x)).all()


@pytest.mark.quick(8)
@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("act", [jax.nn.gelu, jnp.tanh, jax.nn.sigmoid, jax.nn.silu])
def test_the_published_size_folds_by_rates_alone(act, greedy, fraction):
    """No threshold is so low that units fold which aren't linear where they are on."""
    rng = np.random.default_rng(2)
    params = {"a": draw(rng, 6, 24), "b": draw(rng, 24, 24), "o": draw(rng, 24, 3)}
    x = jnp.asarray(rng.normal(size=(300, 6)), jnp.float32)

    def apply(p, x):
        return act(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["o"]

    net = linjax.trace(apply, params, x)
    stats = linjax.collect(net, params, [x])
    with pytest.warns(linjax.FoldWarning, match="isn't linear there"):
        small, report = linjax.fold_and_report(
            params, stats, linjax.published_size(fraction, greedy=greedy)
        )
    assert len(report.sites["b"].kept) == 24
    assert not report.sites["b"].residual
    kept = jnp.zeros(24, bool).at[report.sites["a"].kept].set(True)

    def folded(x):
        z = x @ params["a"]
        return act(jnp.where(kept, jax.nn.relu(z), z) @ params["b"]) @ params["o"]

    np.testing.assert_allclose(net.apply(small, x), folded(x), atol=1e-4)
