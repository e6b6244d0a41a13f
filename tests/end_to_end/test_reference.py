"""Side by side with the published method's measured results on fixed weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
DEPTH = 7
PARITY = (0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1)


def apply(params, x):
    for layer in range(DEPTH):
        part = params[f"Dense_{layer}"]
        x = x @ part["kernel"] + part["bias"]
        x = jax.nn.relu(x) if layer < DEPTH - 1 else x
    return x


@pytest.fixture(scope="module")
def reference(shared):
    """Network, parameters, evidence with the published rates, and their results by threshold."""
    weights = np.load(shared / "reference/fashion_mlp7.npz")
    params = {
        f"Dense_{i}": {"kernel": jnp.array(weights[f"kernel_{i}"]), "bias": weights[f"bias_{i}"]}
        for i in range(DEPTH)
    }
    net = linjax.trace(apply, params, jnp.zeros((1, 784)))
    rates = np.load(shared / "reference/fashion_mlp7_rates.npz")
    stats = linjax.collect(net, params, [np.zeros((2, 784), np.float32)], second_moments=False)
    units = tuple(
        dataclasses.replace(
            u, count=np.int64(10_000), active=np.rint(rates[f"rate_{i}"] * 10_000).astype(np.int64)
        )
        for i, u in enumerate(stats.seen)
    )
    rows = json.loads((shared / "reference/reference_fashion.json").read_text())["rows"]
    theirs = {round(abs(row["threshold"]), 2): row for row in rows}
    return net, params, dataclasses.replace(stats, seen=units), theirs


@pytest.mark.parametrize("rate", PARITY)
def test_counts_and_widths_equal_theirs_where_no_two_layers_in_a_row_fold(reference, rate):
    _, params, stats, theirs = reference
    folded, report = linjax.fold_and_report(params, stats, linjax.threshold(rate))
    assert linjax.count(folded) == theirs[rate]["parameters"]
    assert [len(s.kept) for s in report.sites.values()] == theirs[rate]["widths"][:-1]


def test_where_they_do_the_difference_is_their_gain_formula(reference):
    _, params, stats, theirs = reference
    ours = linjax.fold(params, stats, linjax.threshold(0.05))
    same, report = linjax.fold_and_report(params, stats, linjax.threshold(0.05, gain="published"))
    assert linjax.count(ours) == 2_064_335
    assert linjax.count(same) == theirs[0.05]["parameters"] == 2_068_481
    assert [len(s.kept) for s in report.sites.values()] == theirs[0.05]["widths"][:-1]


def test_everything_linear_is_one_affine_map(reference):
    net, params, stats, theirs = reference
    folded = linjax.fold(params, stats, linjax.threshold(0.0))
    assert linjax.count(folded) == theirs[0.0]["parameters"] == 784 * 10 + 10
    assert set(folded) == {"Dense_6"}
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 784)), jnp.float32)
    h = np.asarray(x, np.float64)
    for part in params.values():
        h = h @ np.asarray(part["kernel"], np.float64) + np.asarray(part["bias"], np.float64)
    np.testing.assert_allclose(net.apply(folded, x), h, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_accuracies_equal_theirs(reference, shared):
    tfds = pytest.importorskip("tensorflow_datasets")
    net, params, stats, theirs = reference
    test = tfds.data_source("fashion_mnist", split="test", data_dir=str(shared / "data/tfds"))
    rows = test.__getitems__(range(len(test)))
    x = np.stack([row["image"] for row in rows]).reshape(-1, 784).astype(np.float32) / 255
    y = np.array([row["label"] for row in rows])
    for rate in PARITY:
        folded = linjax.fold(params, stats, linjax.threshold(rate))
        accuracy = float((np.asarray(net.apply(folded, x)).argmax(1) == y).mean())
        assert abs(accuracy - theirs[rate]["test_accuracy"]) <= 0.0005, rate
