"""The lumping experiment on small random images."""

import jax
import numpy as np
import pytest

from configs import lumping_cnn
from experiments import journal, lumping, models
from experiments.data import Dataset, Split
from experiments.run import run


@pytest.fixture
def config(monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 600).astype(np.int32)
    x = np.clip(rng.uniform(0, 1, (10, 784))[y] + 0.2 * rng.normal(size=(600, 784)), 0, 1)
    parts = [Split(x[i : i + 200].astype(np.float32), y[i : i + 200]) for i in (0, 200, 400)]
    monkeypatch.setattr(lumping, "load", lambda *_: Dataset("Noise", *parts, classes=10))
    config = lumping_cnn.get_config()
    config.removed, config.seeds, config.calibration.rows = (32,), 1, 200
    config.terms, config.bits = (1, 3), (1, 4)
    for part in (config.training, config.retraining):
        part.batch, part.epochs, part.learning_rate = 40, 6, 3e-3
    return config


def test_run(config, tmp_path, monkeypatch):
    rows = run(config, [], tmp_path)
    assert len(rows) == 2 * 2 + 2 * 4 and not any("failure" in row for row in rows)
    ranks = (tmp_path / "ranks.md").read_text()
    assert "| dense_1 | 128 | 16 |" in ranks and "| dense_0 | 16 |" in ranks
    by = {(row["task"].get("terms"), row["rule"]): row for row in rows}
    multiples, published = by[1, "lump"], by[1, "lump_2022"]
    assert published["agreement"] == multiples["agreement"] == 1.0
    assert published["parameters"] == multiples["parameters"] < by[1, "original"]["parameters"]
    assert by[3, "lump"]["parameters"] == by[3, "original"]["parameters"]
    assert by[3, "lump_2022"]["agreement"] < 1
    assert by[3, "size_of_2022"]["parameters"] <= by[3, "lump_2022"]["parameters"]
    assert "| 1 | 32 | lump 2022 |" in (tmp_path / "results.md").read_text().replace("| 0 ", "", 1)

    # What has been done isn't done again.
    monkeypatch.setattr(lumping.train, "members", lambda *_: pytest.fail("done already"))
    assert lumping.planted_rows([], {}, None, config, tmp_path, journal.Journal(tmp_path)) is None


def test_the_planted_layer_stays_while_the_others_learn():
    network = models.dense(models.lecun(0, (4, 6, 5, 3)), "relu")

    def loss(params, made):
        return (made.apply(params, np.ones((2, 4))) ** 2).sum()

    gradient = jax.grad(loss)(network.params, lumping.held(network))["layers"]
    want = jax.grad(loss)(network.params, network)["layers"]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient[lumping.FROZEN]))
    for i in (0, 2):
        jax.tree.map(np.testing.assert_array_equal, gradient[i], want[i])


def test_dependent_units_are_what_they_are_planted_as():
    rng = np.random.default_rng(0)
    layer = {"kernel": rng.normal(size=(4, 12)), "bias": rng.normal(size=12)}
    new, planted = lumping.plant(layer, terms=3, removed=5, seed=0)
    assert not set(planted.target) & set(planted.source.flat)
    for target, source, weight in zip(*planted, strict=True):
        np.testing.assert_allclose(new["kernel"][:, target], new["kernel"][:, source] @ weight)
        np.testing.assert_allclose(new["bias"][target], new["bias"][source] @ weight)
    untouched = np.delete(np.arange(12), planted.target)
    np.testing.assert_array_equal(new["kernel"][:, untouched], layer["kernel"][:, untouched])
