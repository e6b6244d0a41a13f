"""The lumping experiment on small random images."""

import sys

import jax
import numpy as np
import pytest

from configs import lumping_cnn
from experiments import groups, lumping, models
from experiments.data import Dataset, Split
from experiments.run import run


@pytest.fixture
def config(monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 600).astype(np.int32)
    x = np.clip(rng.uniform(0, 1, (10, 784))[y] + 0.2 * rng.normal(size=(600, 784)), 0, 1)
    parts = [Split(x[i : i + 200].astype(np.float32), y[i : i + 200]) for i in (0, 200, 400)]
    for module in (groups, sys.modules["experiments.run"]):
        monkeypatch.setattr(module, "load", lambda *_: Dataset("Noise", *parts, classes=10))
    config = lumping_cnn.get_config()
    config.sweep, config.calibration.rows = (), 200
    config.rules = {rule: REMOVED if "_2022_" in rule or "planted" in rule else (1, 4)
                    for rule in config.rules if rule[-1] not in "24" and "_4" not in rule
                    and "_2_" not in rule}  # fmt: skip
    for part in (config.training, config.retraining):
        part.batch, part.epochs, part.learning_rate = 40, 6, 3e-3
    return config


REMOVED = (32,)


def test_run(config, tmp_path):
    rows = run(config, [], tmp_path)
    assert len(rows) == 1 + 2 * 2 + 2 * 4 and not any("failure" in row for row in rows)
    by = {(row["rule"], row["amount"]): row for row in rows}
    original, removed = by["original", 1]["parameters"], 32 * (16 + 1 + 10)
    assert by["planted_1", 32]["parameters"] == by["planted_3", 32]["parameters"] == original
    # Multiples go without any change, by either; combinations only as published, and it shows.
    for figure in ("accuracy", "divergence"):
        assert by["planted_1_lumped", 32][figure] == pytest.approx(by["planted_1", 32][figure])
        assert by["lumped_2022_1", 32][figure] == pytest.approx(by["planted_1", 32][figure])
    for rule in ("planted_1_lumped", "lumped_2022_1", "lumped_2022_3"):
        assert by[rule, 32]["parameters"] == original - removed
    assert by["planted_3_lumped", 32]["parameters"] == original
    assert by["lumped_2022_3", 32]["divergence"] != by["planted_3", 32]["divergence"]
    assert by["size_of_2022_3", 32]["parameters"] <= original - removed
    assert by["quantised", 1]["divergence"] > by["quantised", 4]["divergence"] > 0
    assert "| size of 2022 3 | 32 |" in (tmp_path / "results.md").read_text()


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
