"""Networks trained together learn what each would learn alone; pruning; scores."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import linjax
from configs import digits_mlp
from experiments import models, train
from experiments.data import Split, load
from experiments.sweep import measure, scoring, training

HIDDEN = (12, 9)


@pytest.fixture(scope="module")
def config():
    config = digits_mlp.get_config()
    config.network.hidden = HIDDEN
    config.training.epochs = 3
    return config


@pytest.fixture(scope="module")
def digits():
    return load(ConfigDict({"name": "digits", "seed": 0, "rows": 200, "drop": ()}))


def members(config, digits, seeds, rates=None, pruned=None):
    built = []
    for seed in seeds:
        mine = ConfigDict(config.network.to_dict())
        mine.seed = seed
        built.append(models.build(mine, 64, 10))
    net = linjax.trace(built[0].apply, built[0].params, digits.train.x[:2])
    count = len(seeds)

    def repeated(part):
        return Split(np.stack([part.x] * count), np.stack([part.y] * count))

    return (
        net,
        built,
        training.Members(
            params=jax.tree.map(lambda *leaves: np.stack(leaves), *(b.params for b in built)),
            train=repeated(digits.train),
            valid=repeated(digits.valid),
            seed=np.array(seeds),
            rate=np.array(rates or [config.training.learning_rate] * count, np.float32),
            pruned=np.array(pruned or [0.0] * count, np.float32),
        ),
    )


def fitted(net, group, config, file, devices=None):
    devices = devices or jax.local_devices()[:1]
    return training.fit(net, group, config.training, file, devices, say=str)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_networks_trained_together_are_those_trained_alone(config, digits, tmp_path, optimiser):
    config = ConfigDict(config.to_dict())
    config.training.optimiser = optimiser
    net, built, group = members(config, digits, [3, 4], [1e-3, 3e-3])
    together = fitted(net, group, config, tmp_path / "pair.npz").params
    for index, network in enumerate(built):
        mine = ConfigDict(config.training.to_dict())
        mine.seed, mine.learning_rate = 3 + index, float(group.rate[index])
        alone = train.fit(network, digits, mine, tmp_path / f"{index}.npz", say=str)
        jax.tree.map(
            lambda a, b, i=index: np.testing.assert_allclose(a, b[i], atol=2e-4), alone, together
        )


def test_each_network_stops_when_it_would_alone(config, digits, tmp_path):
    config = ConfigDict(config.to_dict())
    config.training.patience, config.training.epochs = 1, 12
    # At a rate far too large the loss soon grows.
    net, built, group = members(config, digits, [0, 1], [0.3, 1e-4])
    together = fitted(net, group, config, tmp_path / "pair.npz").params
    mine = ConfigDict(config.training.to_dict())
    mine.learning_rate = 0.3
    epochs = []
    alone = train.fit(built[0], digits, mine, tmp_path / "one.npz", say=epochs.append)
    assert len(epochs) < 12
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], atol=2e-3), alone, together)


def test_training_goes_on_to_the_same_parameters(config, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "BETWEEN_CHECKPOINTS", 0.0)
    net, _, group = members(config, digits, [3, 4], pruned=[0.0, 0.4])
    whole = fitted(net, group, config, tmp_path / "whole.npz")

    def stop(text):
        raise KeyboardInterrupt

    file = tmp_path / "parts.npz"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            training.fit(net, group, config.training, file, jax.local_devices()[:1], stop)
    parts = fitted(net, group, config, file)
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_eight_devices_train_what_one_does(config, digits, tmp_path):
    if len(jax.local_devices()) < 8:
        pytest.skip("needs 8 devices: set XLA_FLAGS=--xla_force_host_platform_device_count=8")
    net, _, group = members(config, digits, range(10), pruned=[0.0] * 9 + [0.4])
    one = fitted(net, group, config, tmp_path / "one.npz")
    eight = fitted(net, group, config, tmp_path / "eight.npz", jax.local_devices()[:8])
    jax.tree.map(np.testing.assert_array_equal, one.kept, eight.kept)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one.params, eight.params)


def test_pruned_units_are_gone(config, digits, tmp_path):
    net, _, group = members(config, digits, [0, 0], pruned=[0.0, 0.4])
    trained = fitted(net, group, config, tmp_path / "file.npz")
    assert all(kept[0].all() for kept in trained.kept)
    assert sum(int((~kept[1]).sum()) for kept in trained.kept) == round(0.4 * sum(HIDDEN))
    whole = jax.tree.map(lambda leaf: leaf[1], trained.params)
    kept = [k[1] for k in trained.kept]
    small = measure.without_pruned(net, whole, kept)
    assert linjax.count(small) < linjax.count(whole)
    x = digits.test.x
    np.testing.assert_allclose(net.apply(small, x), net.apply(whole, x), atol=1e-5)
    counts = scoring.active(net, trained.params, group.train.x)
    for count, keep in zip(counts, kept, strict=True):
        assert not np.asarray(count)[1][~keep].any()
    # The units that fire least are those that went first: what is left fires.
    assert (
        np.concatenate([np.asarray(c)[1][k] for c, k in zip(counts, kept, strict=True)]).min() > 0
    )


def test_scores_are_those_of_collect(config, digits, tmp_path):
    net, _, group = members(config, digits, [0, 1])
    trained = fitted(net, group, config, tmp_path / "file.npz")
    counts = scoring.active(net, trained.params, group.train.x)
    for index in range(2):
        params = jax.tree.map(lambda leaf, i=index: leaf[i], trained.params)
        stats = linjax.collect(net, params, [digits.train.x], second_moments=False)
        for count, units in zip(counts, stats.seen, strict=True):
            np.testing.assert_array_equal(count[index], units.active)
        network = measure.Network(
            {}, net, params, tuple(np.asarray(c)[index] for c in counts), digits, config
        )
        folded = [
            linjax.fold(params, evidence, linjax.threshold(0.3))
            for evidence in (stats, measure.rate_stats(network))
        ]
        jax.tree.map(np.testing.assert_array_equal, *folded)


def test_figures_without_compilation_are_those_with(config, digits):
    network = models.build(config.network, 64, 10)
    x = digits.test.x
    net = linjax.trace(network.apply, network.params, x[:2])
    stats = linjax.collect(net, network.params, [digits.train.x])
    for rule in (linjax.threshold(0.4), linjax.size(0.3), linjax.size(0.1)):
        small = linjax.fold(network.params, stats, rule)
        want = np.asarray(net.apply(small, x))
        found = measure.chain_logits(net, small, x)
        np.testing.assert_allclose(found, want, atol=1e-4)
        compared = linjax.compare(net, network.params, small, [x])
        original = np.asarray(net.apply(network.params, x))
        np.testing.assert_allclose(
            measure.relative_error(found, original), compared.error, rtol=1e-3
        )
