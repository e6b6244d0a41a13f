"""The scale of relative errors doesn't depend on how rows are cut into batches, or ordered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence.scale import outputs_of
from tests.evidence.certainty import probabilities

ROWS, CLASSES = 120, 5
RNG = np.random.default_rng(0)
PARAMS = {
    "in": jnp.asarray(RNG.normal(size=(4, 12)), jnp.float32),
    "out": jnp.asarray(RNG.normal(size=(12, CLASSES)), jnp.float32),
    "bias": jnp.asarray(3 * RNG.normal(size=CLASSES), jnp.float32),
}
X = RNG.normal(size=(ROWS, 3, 4)).astype(np.float32)
X[:40] += 1.5  # rows of three kinds, one after the other
X[80:] -= 1.0


def rows(p, x):
    return jax.nn.relu(x[:, 0] @ p["in"]) @ p["out"] + p["bias"]


def positions(p, x):
    return jax.nn.relu(x @ p["in"]) @ p["out"] + p["bias"]


def want(y, metric):
    """``E (y − ȳ)ᵀ G (y − ȳ)`` of samples with G = E F, times how many an example has."""
    y = np.asarray(y, np.float64)
    each, y = y.size // CLASSES // len(y), y.reshape(-1, CLASSES)
    apart = y - y.mean(0)
    if metric == "identity":
        return each * (apart**2).sum(1).mean()
    p = probabilities(y) if each == 1 else np.exp(y) / np.exp(y).sum(1, keepdims=True)
    mean = np.mean([np.diag(own) - np.outer(own, own) for own in p], axis=0)
    return each * np.einsum("nc,cd,nd->n", apart, mean, apart).mean()


def collected(function, metric, size, order=None, **kwargs):
    net = linjax.trace(function, PARAMS, X[:1])
    x = X if order is None else X[order]
    batches = [x[i : i + size] for i in range(0, ROWS, size)]
    return net, linjax.collect(net, PARAMS, batches, metric=metric, **kwargs)


@pytest.mark.quick(6)
@pytest.mark.parametrize("function", [rows, positions])
@pytest.mark.parametrize("metric", ["identity", "softmax"])
@pytest.mark.parametrize("size", [1, 10, ROWS])
@pytest.mark.filterwarnings("ignore::linjax.errors.FoldWarning")
def test_batches_of_any_size_and_order(function, metric, size):
    net, stats = collected(function, metric, size)
    wanted = want(net.apply(PARAMS, X), metric)
    # Of batches of one row the metric is what it makes of all directions, on average.
    few = 1.0 if size == 1 else 0.2 if metric == "softmax" else 1e-4
    rtol = 1e-4 if size == ROWS else few
    np.testing.assert_allclose(stats.variation, wanted, rtol=rtol)
    order = np.random.default_rng(1).permutation(ROWS)
    _, mixed = collected(function, metric, size, order)
    np.testing.assert_allclose(mixed.variation, wanted, rtol=rtol)


@pytest.mark.parametrize("metric", ["identity", "softmax"])
def test_shards_of_other_kinds_merge(metric):
    """Three shards, each of one kind of row: means apart count."""
    net = linjax.trace(positions, PARAMS, X[:1])
    shards = [linjax.collect(net, PARAMS, [X[i : i + 40]], metric=metric) for i in (0, 40, 80)]
    merged = linjax.merge(linjax.merge(*shards[:2]), shards[2])
    rtol = 1e-4 if metric == "identity" else 0.2
    np.testing.assert_allclose(merged.variation, want(net.apply(PARAMS, X), metric), rtol=rtol)


def test_weights_count_as_rows():
    net = linjax.trace(positions, PARAMS, X[:1])
    some = np.arange(ROWS) % 3 != 1
    weighed = linjax.collect(net, PARAMS, [X], weights=[some])
    alone = linjax.collect(net, PARAMS, [X[some]])
    np.testing.assert_allclose(weighed.variation, alone.variation, rtol=1e-4)


def test_weights_of_the_outputs_own_entries():
    """A number for each position: what is masked leaves no trace."""
    function = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"][:, 0]  # noqa: E731
    net = linjax.trace(function, PARAMS, X[:1])
    mask = RNG.random((ROWS, 3)) > 0.3
    found = []
    for value in (0.0, 100.0):
        x = np.where(mask[:, :, None], X, np.float32(value))
        found.append(linjax.collect(net, PARAMS, [x], metric="identity", weights=[mask]).variation)
    np.testing.assert_allclose(*found, rtol=1e-5)
    y = np.asarray(net.apply(PARAMS, X), np.float64)
    mean = (mask * y).sum(0) / mask.sum(0)
    square = (mask * (y - mean) ** 2).sum() / mask.any(1).sum()
    np.testing.assert_allclose(found[0], square, rtol=1e-4)
    # Outputs that are classes depend on all of them: only that this is told, too.
    classes = linjax.collect(net, PARAMS, [X], weights=[mask], metric="softmax")
    assert 0 < classes.variation < np.inf


@pytest.mark.parametrize("size", [1, 2, 30])
@pytest.mark.filterwarnings("ignore::linjax.errors.FoldWarning")
def test_predictions_are_as_measured_whatever_the_batches(size):
    net, stats = collected(positions, "identity", size)
    small, report = linjax.fold_and_report(PARAMS, stats, linjax.size(0.7))
    measured = linjax.compare(net, PARAMS, small, [X], metric="identity").error
    assert measured / 2 < report.predicted < 2 * measured


@pytest.mark.quick(4)
@pytest.mark.parametrize("size", [1, 3, 5, 8])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.filterwarnings("ignore::linjax.errors.FoldWarning")
def test_rows_are_dealt_evenly_whatever_the_batches(size, weighed):
    """Errors are measured on rows that nothing is fitted to: no fold may be empty."""
    ones = np.ones(ROWS, np.int32)
    weights = [ones[i : i + size] for i in range(0, ROWS, size)] if weighed else None
    _, stats = collected(rows, "identity", size, weights=weights)
    _, whole = collected(rows, "identity", ROWS)
    for a, b in zip(stats.points[0], whole.points[0], strict=True):
        np.testing.assert_array_equal(a.count, b.count)
        np.testing.assert_allclose(a.mean.mean(0), b.mean.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.quick(8)
@pytest.mark.parametrize("folds", [2, 3])
@pytest.mark.parametrize("period", [2, 3, 6])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("size", [60, ROWS])
def test_folds_see_rows_of_all_kinds(folds, period, weighed, size):
    """Of kinds that come by turns: the first feature tells them apart."""
    x = X.copy()
    x[:, 0, 0] = np.arange(ROWS) % period
    net = linjax.trace(lambda p, x: rows(p, x), PARAMS, x[:1])
    weights = [np.ones(size, np.int32)] * (ROWS // size) if weighed else None
    batches = np.split(x, ROWS // size)
    stats = linjax.collect(net, PARAMS, batches, folds=folds, weights=weights)
    means = stats.kernels[0].mean[:, 0, 0]
    assert np.ptp(means) < period / 3


@pytest.mark.parametrize("classes", [10, 300, 5000])
@pytest.mark.filterwarnings("ignore::linjax.errors.FoldWarning")
def test_predictions_are_as_measured_however_many_classes(classes):
    """The scale of errors is in the metric that they are in, whatever the vocabulary."""
    rng = np.random.default_rng(0)
    params = {"in": jnp.asarray(rng.normal(size=(6, 12)), jnp.float32),
              "out": jnp.asarray(rng.normal(size=(12, classes)) / 4, jnp.float32)}  # fmt: skip
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"], params, jnp.ones((1, 6)))
    x = jnp.asarray(rng.normal(size=(400, 6)), jnp.float32)
    stats = linjax.collect(net, params, [x[:100], x[100:200]])
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.7))
    measured = linjax.compare(net, params, small, [x[200:300], x[300:]]).error
    assert measured / 1.5 < report.predicted < 1.5 * measured


@pytest.mark.parametrize(("samples", "classes"), [(40, 9), (9, 40), (3000, 2500), (2500, 3000)])
def test_many_samples_and_classes_have_the_mean_metric(samples, classes):
    """More classes than samples, and so many of both that some samples tell."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(samples, 4)) @ rng.normal(size=(4, classes))
    weights = rng.integers(0, 3, (samples, 1)).astype(np.float32)
    (found,) = outputs_of(jnp.asarray(y, jnp.float32)[None], "softmax", weights.T, samples)
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    apart, total = y - (weights * y).sum(0) / weights.sum(), weights.sum()
    apart = np.sqrt(weights) * (apart - apart.mean(1, keepdims=True))
    first = ((weights * p).sum(0) / total * (apart**2).sum(0)).sum()
    second = ((np.sqrt(weights / total) * p @ apart.T) ** 2).sum()
    np.testing.assert_allclose(found.cost, first - second, rtol=1e-3 if samples < 100 else 0.1)
