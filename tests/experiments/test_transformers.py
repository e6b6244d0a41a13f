"""Transformers and text: what the configs vit_fashion and lm_text run, small."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import linjax
from experiments import evaluate, layers, methods, networks
from experiments.data import load

VIT = {"kind": "vit", "image": (8, 8, 1), "patch": 4, "width": 8, "heads": 2, "ffn": 24,
       "blocks": 2, "seed": 0}  # fmt: skip
LM = {"kind": "lm", "width": 8, "heads": 2, "ffn": 24, "blocks": 2, "seed": 0}


def built(fields, inputs, classes):
    return networks.build(ConfigDict({"network": fields, "weights": ""}), inputs, classes)


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
        network = built(VIT, 64, 10)
    else:
        rows = rng.integers(0, 97, (60, 12)).astype(np.int32)
        network = built(LM, 12, 97)
    net = linjax.trace(network.apply, network.params, rows[:2])
    subject = methods.Subject(net, network.params, rows, 30, "foldable")
    named = ("up/kernel", "down/kernel", "gate/kernel")  # the attention's leaves may fold, too

    def foldable(params):
        leaves = layers.flat(params).items()
        return linjax.count([x for path, x in leaves if path.endswith(named) or "up/bias" in path])

    whole = round(linjax.coverage(net).inside * linjax.count(network.params))
    assert foldable(network.params) <= whole < linjax.count(network.params)
    for rule in ("size", "refit"):
        small = methods.make(subject, rule, 0.4)
        rest = linjax.count(network.params) - whole  # of which values of attention may go, too
        assert 0.1 * foldable(network.params) < foldable(small)
        assert linjax.count(small) <= rest + 0.4 * whole + 24
        logits = evaluate.predict(net.apply, small, rows)
        assert np.isfinite(logits).all() and logits.shape == (
            (60, 10) if kind == "vit" else (60, 12, 97)
        )


def test_a_language_model_sees_no_later_characters():
    network = built(LM, 12, 97)
    x = jnp.zeros((1, 12), jnp.int32)
    changed = network.apply(network.params, x.at[0, 7].set(5)) - network.apply(network.params, x)
    assert float(jnp.abs(changed[0, :7]).max()) < 1e-6 < float(jnp.abs(changed[0, 7:]).max())


def test_figures_of_text_are_those_of_all_characters():
    logits = np.array([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [2.0, 0.0]]])
    found = evaluate.measure(logits, logits, np.array([[0, 1], [1, 0]]))
    assert found["accuracy"] == 0.75 and found["agreement"] == 1.0
