"""The measured error: against a direct computation, and beside the predicted one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.fold import compare, outer
from tests.store import networks


@pytest.mark.parametrize("metric", ["softmax", "identity"])
def test_against_a_direct_computation(metric):
    net, small, _, _ = networks.folded()
    _, params, x = networks.network()
    parts = [x[:20], x[20:50], (x[50:],)]
    found = linjax.compare(net, params, small, parts, metric=metric)

    y = np.asarray(jax.jit(net.apply)(params, x), np.float64)
    other = np.asarray(jax.jit(net.apply)(small, x), np.float64)
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    q = np.exp(other) / np.exp(other).sum(1, keepdims=True)
    weight = (
        sum(np.diag(row) - np.outer(row, row) for row in p) if metric == "softmax" else np.eye(3)
    )
    wrong, centred = other - y, y - y.mean(0)
    want = np.sqrt(np.sum((wrong @ weight) * wrong) / np.sum((centred @ weight) * centred))
    assert found.error == pytest.approx(want, rel=1e-4)
    plain = np.sqrt(np.sum(wrong**2) / np.sum(centred**2))
    assert found.plain == pytest.approx(plain, rel=1e-4)
    assert found.largest == pytest.approx(abs(wrong).max(), rel=1e-4)
    assert linjax.relative_error(y, other, metric=metric) == pytest.approx(want, rel=1e-4)
    assert (found.rows, found.before, found.after) == (64, 840, linjax.count(small))
    if metric == "softmax":
        assert found.agreement == np.mean(y.argmax(1) == other.argmax(1))
        assert found.divergence == pytest.approx(np.mean(np.sum(p * np.log(p / q), 1)), rel=1e-3)
    else:
        assert found.agreement is None and found.divergence is None


def test_the_same_network_has_no_error():
    net, params, x = networks.network()
    found = linjax.compare(net, params, params, [x])
    assert (found.error, found.plain, found.largest, found.agreement) == (0, 0, 0, 1)
    assert "100.00%" in repr(found)


def test_outputs_far_from_zero_keep_their_spread():
    params = {"in": jnp.eye(4), "out": jnp.ones((4, 2))}
    x = jax.random.normal(jax.random.key(0), (400, 4))

    def apply(params, x):
        return jax.nn.relu(x @ params["in"]) @ params["out"] + 3000.0

    net = linjax.trace(apply, params, x)
    small = {"in": params["in"][:, :3], "out": params["out"][:3]}
    halves = [x[:100], x[100:]]
    found = linjax.compare(net, params, small, halves, metric="identity")
    h = np.maximum(np.asarray(x), 0)
    want = np.sqrt(np.sum(h[:, 3] ** 2) / np.sum((h.sum(1) - h.sum(1).mean()) ** 2))
    assert found.error == pytest.approx(want, rel=1e-3)


def test_bad_input_is_refused():
    net, params, x = networks.network()
    with pytest.raises(linjax.EvidenceError, match="no batches"):
        linjax.compare(net, params, params, [])
    with pytest.raises(linjax.LinjaxError, match="expected one of softmax, identity"):
        linjax.compare(net, params, params, [x], metric="cosine")
    with pytest.raises(linjax.StructureError, match="fourth"):
        linjax.compare(net, params, params | {"fourth": x}, [x])


def test_outputs_at_hand_are_refused_that_cannot_be_compared():
    y = np.ones((4, 3), np.float32)
    assert linjax.relative_error({"a": y, "b": y[:, :1]}, {"a": y, "b": y[:, :1]}) == 0
    with pytest.raises(linjax.LinjaxError, match=r"\(4, 2\).*compared with.*\(4, 3\)"):
        linjax.relative_error(y, y[:, :2])
    with pytest.raises(linjax.EvidenceError, match="no output is a float"):
        linjax.relative_error(y.astype(int), y.astype(int))
    with pytest.raises(linjax.EvidenceError, match="no rows"):
        linjax.relative_error(y[:0], y[:0])
    with pytest.raises(linjax.EvidenceError, match="metric = 'mse'"):
        linjax.relative_error(y, y, metric="mse")


@pytest.mark.parametrize("scale, error", [(1.0, 0.1), (4.0, 0.3), (4.0, 3.0)])
@pytest.mark.parametrize("size", [400, 100, 10])
def test_errors_of_many_classes_are_estimated(monkeypatch, scale, error, size):
    """Of more classes than a matrix is held of: the same, from random sums, in any batches."""
    rng = np.random.default_rng(1)
    y = scale * (rng.normal(size=(400, 300)) + rng.normal(size=300))
    small = (1 - error / 3) * y + error * rng.normal(size=y.shape)
    # What all classes of a row share is nothing to a softmax, however much it is.
    y, small = (jnp.asarray(v + 10 * rng.normal(size=(400, 1)), jnp.float32) for v in (y, small))
    exact = linjax.relative_error(y, small, metric="softmax")
    monkeypatch.setattr(outer, "WIDEST", 299)
    parts = [
        compare.outputs_apart(y[n : n + size], small[n : n + size], "softmax", n)
        for n in range(0, 400, size)
    ]
    np.testing.assert_allclose(compare.error_of(parts), exact, rtol=0.1)


def test_a_vocabulary_is_compared():
    rng = np.random.default_rng(0)
    params = {"in": jnp.asarray(rng.normal(size=(6, 12)), jnp.float32),
              "out": jnp.asarray(rng.normal(size=(12, 5000)) / 4, jnp.float32)}  # fmt: skip
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"], params, jnp.ones((1, 6)))
    x = jnp.asarray(rng.normal(size=(300, 6)), jnp.float32)
    stats = linjax.collect(net, params, [x[:100], x[100:200]])
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.7))
    found = linjax.compare(net, params, small, [x[200:250], x[250:]])
    assert report.predicted / 2 < found.error < 2 * report.predicted
    assert 0.2 < found.agreement < 1 and found.divergence > 0
