"""Classifiers that are certain on every row keep what they are certain of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence.objective import tempered
from tests.evidence.certainty import probabilities

ROWS, WIDTH, CLASSES, INPUTS, TELLERS = 2000, 48, 10, 16, 8


def planted(margin: float):
    """Units that tell class 0 with certainty by the first input, and others that tell the rest."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(INPUTS, WIDTH)), rng.normal(size=WIDTH)
    w[0], w[:, :TELLERS], b[:TELLERS] = 0, 0, -0.3
    w[0, :TELLERS] = rng.uniform(0.5, 1.5, TELLERS) * np.where(np.arange(TELLERS) % 2, 1, -1)
    out = 0.2 * rng.normal(size=(WIDTH, CLASSES))
    out[:, 0], out[:TELLERS] = 0, 0
    out[:TELLERS, 0] = margin / 4 * rng.uniform(0.5, 1.5, TELLERS)
    x = rng.normal(size=(ROWS, INPUTS))
    far = np.where(rng.random(ROWS) < 0.5, 1, -1) * rng.uniform(2, 3, ROWS)
    x[:, 0] = np.where(rng.random(ROWS) < 0.3, far, rng.uniform(-0.1, 0.1, ROWS))
    offset = np.where(np.arange(CLASSES) == 0, -margin / 2, 0)
    params = {"in": w, "bias": b, "out": out, "offset": offset}
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params), x.astype(np.float32)


def apply(p, x):
    return jax.nn.relu(x @ p["in"] + p["bias"]) @ p["out"] + p["offset"]


@pytest.mark.parametrize("rows", [40, ROWS])
@pytest.mark.parametrize("margin", [10, 20, 40])
def test_a_class_that_is_certain_on_every_row_is_kept(margin, rows):
    params, x = planted(margin)
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x[:rows]])
    small = linjax.fold(params, stats, linjax.size(0.4))
    told, found = (np.asarray(net.apply(p, x)).argmax(1) == 0 for p in (params, small))
    assert 0.2 < told.mean() < 0.4 and (told == found).mean() > 0.99


def test_logits_are_tempered_row_by_row():
    y = np.random.default_rng(0).normal(size=(50, 4)) * np.logspace(-1, 3, 50)[:, None]
    found = jax.nn.softmax(tempered(jnp.asarray(y, jnp.float32), "softmax"))
    np.testing.assert_allclose(found, probabilities(y), atol=1e-5)
    np.testing.assert_array_equal(tempered(y[None], "softmax"), y[None])  # rows with many outputs
    np.testing.assert_array_equal(tempered(y, "identity"), y)
