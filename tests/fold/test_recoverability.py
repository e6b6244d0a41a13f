"""Linear recoverability: a block that is affine on the data can be one affine map."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

RNG = np.random.default_rng(0)
X = placed(RNG.normal(size=(400, 6)))


def network(shift):
    params = {
        "a": {"w": jnp.asarray(RNG.normal(size=(6, 30)), jnp.float32), "b": jnp.full(30, shift)},
        "c": {"w": jnp.asarray(RNG.normal(size=(30, 4)), jnp.float32), "b": jnp.zeros(4)},
    }

    def apply(p, x):
        return jax.nn.relu(x @ p["a"]["w"] + p["a"]["b"]) @ p["c"]["w"] + p["c"]["b"]

    net = linjax.trace(apply, params, X[:1])
    return net, params, linjax.collect(net, params, [X], metric="identity")


def test_it_is_the_definition():
    net, params, stats = network(0.5)
    t = np.asarray(net.apply(params, X), np.float64)
    even, odd = np.arange(400) % 2 == 0, np.arange(400) % 2 == 1
    x = np.asarray(X, np.float64)
    scores = []
    for train, test in ((even, odd), (odd, even)):
        kernel = np.linalg.lstsq(x[train] - x[train].mean(0), t[train] - t[train].mean(0))[0]
        left = (t[test] - t[test].mean(0)) - (x[test] - x[test].mean(0)) @ kernel
        scores.append(1 - (left**2).sum() / ((t[test] - t[test].mean(0)) ** 2).sum())
    found = linjax.recoverability(params, stats)["a"]
    assert min(scores) - 1e-3 <= found.r2 <= max(scores) + 1e-3
    assert found.r2 == pytest.approx(found.weighted, abs=0.02)  # the outputs are the reader's
    assert (found.before, found.after) == (6 * 30 + 30 + 30 * 4 + 4, 6 * 4 + 4)


def test_an_affine_block_is_replaced_by_one_affine_map():
    net, params, stats = network(30.0)
    assert linjax.recoverability(params, stats)["a"].r2 == pytest.approx(1.0, abs=1e-4)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    assert not len(report.sites["a"].kept) and linjax.count(small) == 6 * 4 + 4
    want = net.apply(params, X)
    np.testing.assert_allclose(jax.jit(net.apply)(small, X), want, rtol=1e-3, atol=1e-2)
    assert "R² of outputs" in repr(linjax.recoverability(params, stats))


def test_it_needs_second_moments():
    net, params, _ = network(0.0)
    stats = linjax.collect(net, params, [X], second_moments=False)
    with pytest.raises(linjax.EvidenceError, match="second moments"):
        linjax.recoverability(params, stats)


def test_it_sees_past_a_layer_that_has_vanished():
    sizes = (6, 20, 8, 3)
    params = {
        f"l{i}": {"w": jnp.asarray(RNG.normal(size=(a, b)) / 3, jnp.float32),
                  "b": jnp.full(b, 20.0 if i == 1 else 0.0)}
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    }  # fmt: skip

    def apply(p, x):
        for name in ("l0", "l1"):
            x = jax.nn.relu(x @ p[name]["w"] + p[name]["b"])
        return x @ p["l2"]["w"] + p["l2"]["b"]

    net = linjax.trace(apply, params, X[:1])
    before = linjax.collect(net, params, [X], metric="identity")
    small = linjax.fold(params, before, linjax.threshold(1.0))
    assert "w" not in small.get("l1", {})
    after = linjax.recoverability(small, linjax.collect(net, small, [X], metric="identity"))["l0"]
    assert 0.2 < after.r2 < 0.98 and after.rank == 3
    # The outputs are what the first site is read for: two layers in a row make one map.
    x, h = np.asarray(X, np.float64), np.asarray(net.apply(params, X), np.float64)
    x, h = x - x.mean(0), h - h.mean(0)
    left = h - x @ np.linalg.lstsq(x, h)[0]
    assert after.r2 == pytest.approx(1 - (left**2).sum() / (h**2).sum(), abs=0.05)
