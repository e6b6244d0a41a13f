"""compress: sequential and joint refits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.fold.candidates import Work
from linjax.fold.compress import compress
from tests.fold.networks import dense, rows, traced


def error(net, params, small, x):
    y, z = jax.jit(net.apply)(params, x), jax.jit(net.apply)(small, x)
    p, q = jax.nn.log_softmax(y), jax.nn.log_softmax(z)
    return float(jnp.mean(jnp.sum(jnp.exp(p) * (p - q), -1)))


def test_is_nearer_to_the_original_than_one_shot():
    net, params, batches, stats = traced((12, 48, 40, 5), count=1000, batch=250)
    fresh = rows(500, 12, seed=1)
    rule = linjax.size(0.2)
    one_shot = linjax.fold(params, stats, rule)
    small = compress(net, params, batches, rule, evidence=stats)
    assert linjax.count(small) <= 0.2 * linjax.count(params)
    assert error(net, params, small, fresh) < error(net, params, one_shot, fresh)


def test_of_the_networks_the_one_nearest_on_real_rows_is_taken(monkeypatch):
    """One network is right for the rows that there are, another for what lies between them."""

    def apply(p, x):
        return jax.nn.relu(x @ p["in"] + p["shift"]) @ p["out"]

    def made(slope, shift, out, units=1):
        one = np.eye(1, units, dtype=np.float32)
        return {"in": slope * one, "shift": shift * one[0], "out": out * one.T}

    params, x = made(2.0, -1.0, 1.0, 3), np.tile(np.float32([[0.0], [1.0]]), (50, 1))
    real, between = made(1.0, 0.0, 1.0), made(2.0, -1.0, 0.99)
    monkeypatch.setattr(Work, "refitted", lambda self, rule, held: [between, real])
    net = linjax.trace(apply, params, x)
    small = compress(net, params, [x], linjax.size(0.5), metric="identity", joint=False)
    assert small is real


def test_identity_metric_and_generators():
    apply, params = dense((6, 32, 24, 2))
    x = rows(300, 6)
    net = linjax.trace(apply, params, x)
    small = compress(
        net, params, lambda: iter([x[:150], x[150:]]), linjax.size(0.4), metric="identity"
    )
    y, z = jax.jit(net.apply)(params, x), jax.jit(net.apply)(small, x)
    assert float(jnp.mean((y - z) ** 2) / jnp.var(y)) < 0.05


def test_iterators_are_refused():
    net, params, batches, _ = traced((6, 12, 3))
    with pytest.raises(linjax.EvidenceError, match="only once"):
        compress(net, params, iter(batches), linjax.size(0.5))


@pytest.mark.parametrize("fraction", [1e-6, 0.06])
def test_extreme_budgets(fraction):
    net, params, batches, _ = traced((6, 12, 10, 3))
    if fraction < 0.01:
        with pytest.raises(linjax.LinjaxError, match="smallest network"):
            compress(net, params, batches, linjax.size(fraction))
        return
    small = compress(net, params, batches, linjax.size(fraction))
    assert np.isfinite(jax.jit(net.apply)(small, batches[0])).all()


def test_several_chains_and_consumers():
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 20), "b": (20, 6), "c": (6, 20), "d": (20, 3), "e": (20, 2)}
    params = {
        k: jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]), jnp.float32) for k, s in shapes.items()
    }

    def apply(params, x):
        x = x + jax.nn.gelu(x @ params["a"]) @ params["b"]
        h = jax.nn.relu(x @ params["c"])
        return h @ params["d"], h @ params["e"]

    x = rows(400, 6)
    net = linjax.trace(apply, params, x)
    small = compress(net, params, [x], linjax.size(0.6), metric="identity")
    assert linjax.count(small) <= 0.6 * linjax.count(params)
    for y, z in zip(jax.jit(net.apply)(params, x), jax.jit(net.apply)(small, x), strict=True):
        assert float(jnp.mean((y - z) ** 2) / jnp.var(y)) < 0.2


def test_folded_networks_compress_further():
    net, params, batches, stats = traced((12, 40, 30, 5))
    half = linjax.fold(params, stats, linjax.size(0.5))
    small = compress(net, half, batches, linjax.size(0.5))
    assert linjax.count(small) <= 0.25 * linjax.count(params)
