import jax
import numpy as np
import pytest

from configs import digits_mlp
from experiments import data, evaluate, models, train


@pytest.fixture(scope="module")
def setting():
    config = digits_mlp.get_config()
    config.network.hidden = (16,)
    config.training.epochs = 4
    digits = data.load(config.dataset)
    return config.training, digits, models.build(config.network, 64, digits.classes)


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_resumed_training_ends_with_the_same_parameters(setting, tmp_path, name):
    config, digits, network = setting
    config = config.copy_and_resolve_references()
    config.optimiser = name
    whole = train.fit(network, digits, config, tmp_path / "whole.npz")

    class Killed(Exception):
        pass

    def die_after_two(line):
        if "epoch   2" in line:
            raise Killed

    with pytest.raises(Killed):
        train.fit(network, digits, config, tmp_path / "part.npz", die_after_two)
    heard = []
    resumed = train.fit(network, digits, config, tmp_path / "part.npz", heard.append)
    assert "after epoch 2" in heard[0] and len(heard) == 3
    assert same(whole, resumed)


def test_training_stops_when_validation_no_longer_improves(setting, tmp_path):
    config, digits, network = setting
    config = config.copy_and_resolve_references()
    config.optimiser, config.learning_rate = "sgd", 0.0
    heard = []
    params = train.fit(network, digits, config, tmp_path / "still.npz", heard.append)
    assert len(heard) == 1 + config.patience
    assert same(params, network.params)


def test_training_learns(setting, tmp_path):
    config, digits, network = setting
    params = train.fit(network, digits, config, tmp_path / "run.npz", lambda _: None)
    logits = evaluate.predict(network.apply, params, digits.test.x, size=100)
    figures = evaluate.measure(logits, logits, digits.test.y)
    assert figures["accuracy"] > 0.5  # guessing: 0.1
    assert figures["agreement"] == 1


def test_last_short_batch_is_predicted_like_the_others(setting):
    _, digits, network = setting
    x = digits.test.x[:25]
    in_tens = evaluate.predict(network.apply, network.params, x, size=10)
    np.testing.assert_allclose(in_tens, network.apply(network.params, x), rtol=1e-5, atol=1e-6)


def test_unknown_optimiser_is_refused(setting):
    config = setting[0].copy_and_resolve_references()
    config.optimiser = "magic"
    with pytest.raises(ValueError, match="magic"):
        train.optimiser(config)
