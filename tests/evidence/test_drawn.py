"""Rows and classes that sensitivities are drawn at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence import drawn
from linjax.evidence.rows import turns
from tests.evidence.certainty import probabilities

ROWS, CLASSES = 400, 10


def apply(p, x):
    return jax.nn.relu(x @ p["in"]) @ p["out"]


def network():
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "in": jax.random.normal(keys[0], (6, 16)),
        "out": jax.random.normal(keys[1], (16, CLASSES)),
    }
    x = jax.random.normal(keys[2], (ROWS, 6))
    return linjax.trace(apply, params, x), params, x


def exact(params, x):
    """E[Jᵀ F J] at the hidden units, in float64."""
    w_in, w_out = (np.asarray(params[k], np.float64) for k in ("in", "out"))
    logits = np.maximum(np.asarray(x, np.float64) @ w_in, 0) @ w_out
    p = probabilities(logits)
    metric = (np.einsum("ni,ij->nij", p, np.eye(CLASSES)) - p[:, :, None] * p[:, None]).mean(0)
    centred = logits - logits.mean(0)
    return w_out @ metric @ w_out.T, np.einsum("nq,qr,nr->n", centred, metric, centred).mean()


@pytest.mark.parametrize("batches", [[ROWS], [130, 130, 140]])
def test_what_is_drawn_averages_to_the_jacobians(monkeypatch, batches):
    net, params, x = network()
    parts = jnp.split(x, np.cumsum(batches)[:-1])
    want, variation = exact(params, x)
    errors = []
    for draws in (300, 1200, 3100):
        monkeypatch.setattr(drawn, "DRAWS", draws)
        stats = linjax.collect(net, params, parts, metric="softmax")
        (point,) = stats.points[0]
        assert point.places == pytest.approx(1)
        assert np.trace(point.metric[0]) == pytest.approx(np.trace(want), rel=0.1)
        assert stats.variation == pytest.approx(variation, rel=0.01)
        errors.append(np.linalg.norm(point.metric[0] - want) / np.linalg.norm(want))
    assert errors[0] < 0.15 and errors[2] < errors[0] / 2 and errors[2] < 0.03


def test_pairs_are_drawn_as_often_as_they_weigh():
    y = np.random.default_rng(0).normal(size=(31, 5)).astype(np.float32) * 3
    p = probabilities(y)
    weight = np.array([[q[c] * ((np.eye(5)[c] - q) ** 2).sum() for c in range(5)] for q in p])
    turn = turns(31, 2)
    dealt = drawn.in_order([jnp.asarray(y[turn == 0]), jnp.asarray(y[turn == 1])], turn)
    np.testing.assert_array_equal(dealt, y)
    draw = drawn.drawn(dealt, 500, 0)
    counts = np.zeros((31, 5))
    np.add.at(counts, (draw.rows, draw.classes), 1)
    share = 500 * weight / weight.sum()
    assert np.abs(counts.sum(1) - share.sum(1)).max() < 1
    assert np.abs(counts - share).max() < 2
    seeds = np.asarray(draw.cotangents(jnp.asarray(y[draw.rows])))[0]
    lengths = np.linalg.norm(seeds, axis=1)
    np.testing.assert_allclose(lengths, np.sqrt(weight.sum() / 500), rtol=1e-4)
    metric = sum(np.diag(q) - np.outer(q, q) for q in p)
    np.testing.assert_allclose(seeds.T @ seeds, metric, atol=0.02 * np.trace(metric))


def test_certain_rows_are_drawn_as_well():
    y = jnp.asarray([[0.0, 1e4], [1e4, 0.0]])
    draw = drawn.drawn(y, 4, 0)
    assert np.isfinite(np.asarray(draw.cotangents(y[draw.rows]))).all()
    assert sorted(set(draw.rows.tolist())) == [0, 1] and draw.length > 0.01


@pytest.mark.parametrize(
    "function, wanted",
    [
        (apply, True),
        (lambda p, x: apply(p, x - x.mean(0)), False),  # rows see each other
        (lambda p, x: apply(p, x[None])[0], True),
        (lambda p, x: apply(p, x)[:, None], False),
        (lambda p, x: (apply(p, x), apply(p, x)), False),
        (lambda p, x: apply(p, x)[:, :1], False),
    ],
)
def test_only_rows_with_logits_of_their_own_are_drawn(function, wanted):
    _, params, x = network()
    net = linjax.trace(function, params, x)
    assert drawn.can_draw(net.network, "softmax") == wanted
    assert not drawn.can_draw(net.network, "identity")


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 16])
@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_every_class_gets_its_share(classes, step):
    """Of outputs that are nearly the same for all rows, however steps and classes divide."""
    rows, rng = 40 * step, np.random.default_rng(0)
    y = (rng.normal(size=classes) + 1e-3 * rng.normal(size=(rows, classes))).astype(np.float32)
    count = rows * classes // step
    p = probabilities(y)
    weight = p * (1 - 2 * p + (p**2).sum(1, keepdims=True))
    share = count * weight.sum(0) / weight.sum()
    for seed in range(3):
        draw = drawn.drawn(jnp.asarray(y), count, seed)
        found = np.bincount(draw.classes, minlength=classes)
        assert (np.abs(found - share) <= 4 * np.sqrt(share) + 1).all()


@pytest.mark.parametrize("period", [2, 4, 10])
def test_rows_that_come_by_turns_are_drawn_alike(period):
    rows, classes = 800, 4
    y = jnp.zeros((rows, classes))
    draw = drawn.drawn(y, rows * classes // period, 0)
    shares = np.bincount(draw.rows % period, minlength=period) / len(draw.rows)
    assert np.abs(shares * period - 1).max() < 4 * np.sqrt(period / len(draw.rows))


@pytest.mark.parametrize("draws", [64, 100, 200, 400])
def test_metrics_of_outputs_that_hardly_vary(monkeypatch, draws):
    net, params, x = network()
    params = {"in": params["in"], "out": 1e-2 * params["out"]}
    want, _ = exact(params, x)
    monkeypatch.setattr(drawn, "DRAWS", draws)
    stats = linjax.collect(net, params, [x], metric="softmax")
    found = stats.points[0][0].metric[0]
    assert np.linalg.norm(found - want) < 0.5 * np.linalg.norm(want)
    basis = np.linalg.eigh(want)[1][:, -(CLASSES - 1) :]
    kept = np.linalg.eigvalsh(basis.T @ found @ basis) / np.linalg.eigvalsh(basis.T @ want @ basis)
    assert kept.min() > 0.1


@pytest.mark.parametrize("outputs", ["regression", "positions"])
@pytest.mark.parametrize("size", [2400, 100])
def test_the_order_of_rows_doesnt_matter(outputs, size):
    """Half of the rows, one after the other, bring one unit into play, half the other one."""

    def function(p, x):
        y = jnp.sin(jax.nn.relu(x @ p["in"]) @ p["out"])
        return y if outputs == "regression" else jnp.stack([y, 2 * y], 1)

    params = {"in": jnp.eye(2), "out": jnp.array([[2.0, 1.0, 0.0], [0.0, -1.0, 2.0]])}
    x = np.random.default_rng(0).uniform(0.1, 1, (2400, 2)).astype(np.float32)
    x[:1200, 0] -= 2
    x[1200:, 1] -= 2
    mixed = np.random.default_rng(1).permutation(x)
    metric = "identity" if outputs == "regression" else "softmax"
    net = linjax.trace(function, params, x[:1])
    found = [
        linjax.collect(net, params, [own[i : i + size] for i in range(0, 2400, size)],
                       metric=metric).points[0][0].metric[0]
        for own in (x, mixed)
    ]  # fmt: skip
    np.testing.assert_allclose(*found, atol=0.25 * np.abs(found[1]).max())
