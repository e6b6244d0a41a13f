"""The lumping experiment on small random images."""

import numpy as np
import pytest

from experiments.data import Dataset, Split
from experiments.exact import lumping
from tests.experiments.test_exact import config_of


@pytest.fixture
def config(monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 600).astype(np.int32)
    x = np.clip(rng.uniform(0, 1, (10, 784))[y] + 0.2 * rng.normal(size=(600, 784)), 0, 1)
    parts = [Split(x[i : i + 200].astype(np.float32), y[i : i + 200]) for i in (0, 200, 400)]
    monkeypatch.setattr(lumping, "load", lambda *_: Dataset("Noise", *parts, classes=10))
    config = config_of("lumping_cnn")
    config.removed, config.seeds, config.calibration_rows = (32,), 1, 200
    config.terms, config.bits = (1, 3), (1, 4)
    for part in (config.training, config.retraining):
        part.batch, part.epochs, part.learning_rate = 40, 6, 3e-3
    return config


def test_run(config, tmp_path, monkeypatch):
    rows = lumping.run(config, tmp_path)
    assert [row["experiment"] for row in rows] == ["ranks", *2 * ["quantised"], *2 * ["planted"]]
    kernels = rows[0]["kernels"]
    assert [kernels[f"dense_{i}"]["units"] for i in range(3)] == [16, 128, 10]
    assert kernels["conv_0"]["rank"] <= 9 and kernels["dense_1"]["rank"] <= 16
    multiples, combinations = rows[-2:]
    assert multiples["lump_units"] == 32
    assert multiples["published_agreement"] == multiples["lump_agreement"] == 1.0
    assert multiples["published_parameters"] == multiples["lump_parameters"]
    assert combinations["lump_units"] == 0
    assert combinations["published_agreement"] < 1
    assert combinations["fold_parameters"] <= combinations["published_parameters"]
    text = (tmp_path / "results.md").read_text()
    assert "| 1 | 32 | 1 |" in text and "| dense_1 | 128 | 16 |" in text

    # What has been done isn't done again; what is missing is.
    monkeypatch.setattr(lumping, "planted_rows", lambda *_: pytest.fail("done already"))
    assert lumping.run(config, tmp_path) == rows


def test_dependent_units_are_what_they_are_planted_as():
    rng = np.random.default_rng(0)
    layer = {"kernel": rng.normal(size=(4, 12)), "bias": rng.normal(size=12)}
    new, planted = lumping.plant(layer, lumping.Case(terms=3, removed=5, seed=0))
    assert not set(planted.target) & set(planted.source.flat)
    for target, source, weight in zip(*planted, strict=True):
        np.testing.assert_allclose(new["kernel"][:, target], new["kernel"][:, source] @ weight)
        np.testing.assert_allclose(new["bias"][target], new["bias"][source] @ weight)
    untouched = np.delete(np.arange(12), planted.target)
    np.testing.assert_array_equal(new["kernel"][:, untouched], layer["kernel"][:, untouched])
