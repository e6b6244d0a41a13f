"""Transformers and text: what the configs vit_fashion and lm_text run, small."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import linjax
from configs import lm_text
from experiments import evaluate, models, rules, run
from experiments.data import load
from experiments.sweep import run as sweep_run
from linjax.program.pytree import flatten

VIT = {"kind": "vit", "image": (8, 8, 1), "patch": 4, "width": 8, "heads": 2, "ffn": 24,
       "blocks": 2, "seed": 0}  # fmt: skip
LM = {"kind": "lm", "width": 8, "heads": 2, "ffn": 24, "blocks": 2, "seed": 0}


def test_text_is_in_rows_and_predicts_the_next_character():
    dataset = load(ConfigDict({"name": "documentation", "length": 32, "rows": 0}))
    assert dataset.train.x.shape[1] == 32 and dataset.train.x.max() < dataset.classes == 97
    np.testing.assert_array_equal(dataset.test.x[:, 1:], dataset.test.y[:, :-1])
    assert len(dataset.train.y) > 5 * len(dataset.test.y)


@pytest.mark.parametrize("kind", ["vit", "lm"])
def test_sizes_are_shares_of_the_feed_forward_networks(kind):
    rng = np.random.default_rng(0)
    if kind == "vit":
        rows = rng.uniform(size=(60, 64)).astype(np.float32)
        network = models.build(ConfigDict(VIT), 64, 10)
    else:
        rows = rng.integers(0, 97, (60, 12)).astype(np.int32)
        network = models.build(ConfigDict(LM), 12, 97)
    net = linjax.trace(network.apply, network.params, rows[:2])
    subject = rules.gather(net, network.params, rows, 30, "foldable")
    own = rules.foldable(net)

    def foldable(params):
        return linjax.count([x for path, x in flatten(params).items() if path in own])

    whole = foldable(network.params)
    for rule in ("size", "refit"):
        small = rules.make(subject, rule, 0.4)
        rest = linjax.count(network.params) - whole  # of which values of attention may go, too
        assert 0.1 * whole < foldable(small)
        assert linjax.count(small) <= rest + 0.4 * whole + 24
        logits = evaluate.predict(net.apply, small, rows)
        assert np.isfinite(logits).all() and logits.shape == (
            (60, 10) if kind == "vit" else (60, 12, 97)
        )


def test_a_language_model_sees_no_later_characters():
    network = models.build(ConfigDict(LM), 12, 97)
    x = jnp.zeros((1, 12), jnp.int32)
    changed = network.apply(network.params, x.at[0, 7].set(5)) - network.apply(network.params, x)
    assert float(jnp.abs(changed[0, :7]).max()) < 1e-6 < float(jnp.abs(changed[0, 7:]).max())


def test_figures_of_text_are_those_of_all_characters():
    logits = np.array([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [2.0, 0.0]]])
    found = evaluate.measure(logits, logits, np.array([[0, 1], [1, 0]]))
    assert found["accuracy"] == 0.75 and found["agreement"] == 1.0


def test_a_sweep_measures_what_a_run_measures(tmp_path):
    config = lm_text.get_config()
    config.dataset.rows, config.dataset.length = 150, 8
    config.network.update({"width": 8, "heads": 2, "ffn": 8, "blocks": 1})
    config.training.epochs, config.calibration.rows = 1, 100
    config.rules = {"size": (0.5,), "magnitude": (0.5,)}
    alone = run.run(config, str(tmp_path / "alone"))
    swept = sweep_run.run(config, ["seed=0"], str(tmp_path / "swept"))
    rows = {row["rule"]: row for row in swept}
    for row in alone:
        other = rows[row["rule"]]
        for name in ("parameters", "flops", "units", "rates"):
            assert other.get(name) == row.get(name), name
        for name in ("share", "accuracy", "agreement", "cross_entropy", "error"):
            np.testing.assert_allclose(other[name], row[name], rtol=1e-3, atol=1e-6)
