"""Networks trained together learn what each would learn alone; resuming; pruning; penalties."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import digits_mlp
from experiments import evaluate, models, networks, steps, train
from experiments.data import load

HIDDEN = (12, 9)


@pytest.fixture
def config():
    config = digits_mlp.get_config()
    config.network.hidden = HIDDEN
    config.training.epochs = 3
    return config


@pytest.fixture(scope="module")
def digits():
    return load(ConfigDict({"name": "digits", "seed": 0, "rows": 200, "drop": ()}))


def group_of(config, digits, seeds, pruned=None, **fields):
    """Networks of some seeds; a field has a value for each."""
    built, configs = [], []
    for i, seed in enumerate(seeds):
        mine = ConfigDict(config.to_dict())
        mine.network.seed = mine.training.seed = seed
        mine.training.update({name: values[i] for name, values in fields.items()})
        built.append(networks.build(mine, 64, 10))
        configs.append(mine.training)
    return built, configs, train.members(built, [digits] * len(built), configs, pruned)


def fitted(built, group, config, file, **more):
    return train.fit(built[0], group, config.training, file, say=str, **more)


def close(a, b, atol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def member(trained, index):
    return jax.tree.map(lambda leaf: leaf[index], trained.params)


class Killed(Exception):
    pass


def test_training_is_that_of_optax(config, digits, tmp_path):
    """The oracle: a loop over batches with Optax's own Adam."""
    (built,), (own,), _ = group_of(config, digits, [3])
    own.patience = 0
    adam, params = optax.adam(own.learning_rate), built.params
    state = adam.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss(p):
            logits = built.apply(p, x)
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

        updates, state = adam.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for epoch in range(own.epochs):
        order = np.random.default_rng((3, epoch)).permutation(len(digits.train.y))
        for start in range(0, len(order) - 31, 32):
            rows = order[start : start + 32]
            params, state = step(params, state, digits.train.x[rows], digits.train.y[rows])
    found = train.alone(built, digits, own, tmp_path / "file.npz", str)
    close(found, params, 1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_networks_trained_together_are_those_trained_alone(config, digits, tmp_path, shared):
    built, configs, group = group_of(config, digits, [3, 4], learning_rate=[1e-3, 3e-3])
    assert group.shared
    if not shared:
        other = digits._replace(title="the same rows, not known to be")
        group = train.members(built, [digits, other], configs)
        assert group.train.x.shape == (2, 200, 64)
    together = fitted(built, group, config, tmp_path / "both.npz")
    for i in range(2):
        alone = train.alone(built[i], digits, configs[i], tmp_path / f"{i}.npz", str)
        close(alone, member(together, i), 2e-4)


def test_each_network_stops_when_it_would_alone(config, digits, tmp_path):
    config.training.patience, config.training.epochs = 1, 12
    # At a rate far too large the loss soon grows.
    built, configs, group = group_of(config, digits, [0, 1], learning_rate=[0.3, 1e-4])
    together, epochs = fitted(built, group, config, tmp_path / "pair.npz"), []
    alone = train.alone(built[0], digits, configs[0], tmp_path / "one.npz", epochs.append)
    assert len(epochs) < 12
    close(alone, member(together, 0), 2e-3)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_training_goes_on_to_the_same_parameters(config, digits, tmp_path, monkeypatch, optimiser):
    monkeypatch.setattr(train, "BETWEEN_CHECKPOINTS", 0.0)
    config.training.optimiser = optimiser
    built, _, group = group_of(config, digits, [3, 4], pruned=[0.0, 0.4])
    whole, heard = fitted(built, group, config, tmp_path / "whole.npz"), []

    def die(text):
        heard.append(text)
        if text.startswith("epoch"):
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            train.fit(built[0], group, config.training, tmp_path / "parts.npz", die)
    assert "after epoch 1" in heard[1]
    same(whole, fitted(built, group, config, tmp_path / "parts.npz"))


def test_training_stops_when_validation_no_longer_improves(config, digits, tmp_path):
    config.training.epochs = 9
    (built,), (own,), _ = group_of(config, digits, [0], learning_rate=[0.0])
    heard = []
    params = train.alone(built, digits, own, tmp_path / "still.npz", heard.append)
    assert len(heard) == 1 + own.patience
    same(params, built.params)


def test_without_patience_the_last_parameters_are_taken(config, digits, tmp_path):
    config.training.patience = 0
    (built,), (own,), _ = group_of(config, digits, [0], learning_rate=[0.3])
    heard = []
    train.alone(built, digits, own, tmp_path / "file.npz", heard.append)
    assert len(heard) == own.epochs


def test_training_learns(config, digits, tmp_path):
    config.training.epochs = 15
    (built,), (own,), _ = group_of(config, digits, [0], learning_rate=[1e-2])
    params = train.alone(built, digits, own, tmp_path / "run.npz", str)
    logits = evaluate.predict(built.apply, params, digits.test.x, size=100)
    figures = evaluate.measure(logits, logits, digits.test.y)
    assert figures["accuracy"] > 0.4  # guessing: 0.1
    assert figures["agreement"] == 1


def test_eight_devices_train_what_one_does(config, digits, tmp_path):
    if len(jax.local_devices()) < 8:
        pytest.skip("needs 8 devices: set XLA_FLAGS=--xla_force_host_platform_device_count=8")
    built, _, group = group_of(config, digits, range(10), pruned=[0.0] * 9 + [0.4])
    one = fitted(built, group, config, tmp_path / "one.npz")
    devices = jax.local_devices()[:8]
    eight = fitted(built, group, config, tmp_path / "eight.npz", devices=devices)
    same(one.kept, eight.kept)
    close(one.params, eight.params, 1e-5)


def test_pruned_units_are_gone(config, digits, tmp_path):
    built, _, group = group_of(config, digits, [0, 0], pruned=[0.0, 0.4])
    trained = fitted(built, group, config, tmp_path / "file.npz")
    assert all(kept[0].all() for kept in trained.kept)
    assert sum(int((~kept[1]).sum()) for kept in trained.kept) == round(0.4 * sum(HIDDEN))
    whole, kept = member(trained, 1), [k[1] for k in trained.kept]
    x = digits.test.x
    small = built[0].apply(models.without(whole, kept), x)
    np.testing.assert_allclose(small, built[0].apply(whole, x), atol=1e-5)
    # The units that fire least are those that went: none of them fires, and what is left does.
    for values, keep in zip(built[0].before(whole, digits.train.x)[:-1], kept, strict=True):
        fires = (np.asarray(values) > 0).any(0)
        assert not fires[~keep].any() and fires[keep].all()


def test_penalties_act(config, digits, tmp_path):
    config.training.penalty, config.training.epochs = "stability", 8
    fields = {"l1": [0.0, 1e-1, 0.0], "extra": [0.0, 0.0, 0.3], "learning_rate": [1e-2] * 3}
    built, _, group = group_of(config, digits, [0, 0, 0], **fields)
    trained = fitted(built, group, config, tmp_path / "file.npz")
    norms = [sum(np.abs(p["kernel"]).sum() for p in member(trained, i)["layers"].values())
             for i in range(3)]  # fmt: skip
    assert norms[1] < 0.9 * norms[0] and norms[2] != norms[0]


@pytest.mark.parametrize("name", ["stability", "polarised"])
def test_second_penalties_are_differentiable(name):
    network = models.dense(models.lecun(0, (4, 3, 3, 2)), "relu")
    x = jnp.linspace(0, 1, 20).reshape(5, 4)

    def loss(params):
        return steps.PENALTIES[name](params, network.before(params, x))

    value, gradient = jax.jit(jax.value_and_grad(loss))(network.params)
    assert -1 <= value <= 1
    assert sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(gradient)) > 0


@pytest.mark.parametrize(
    ("field", "value"), [("optimiser", "magic"), ("schedule", "odd"), ("penalty", "l3")]
)
def test_what_is_unknown_is_refused(config, digits, tmp_path, field, value):
    built, _, group = group_of(config, digits, [0])
    config.training[field] = value
    with pytest.raises(ValueError, match=value):
        fitted(built, group, config, tmp_path / "file.npz")


def test_schedules():
    config = ConfigDict({"epochs": 4, "stages": 2, "schedule": "halving"})
    halving = steps.schedule(config, 10)
    assert [float(halving(i)) for i in (0, 19, 20, 39)] == [1.0, 1.0, 0.5, 0.5]
    config.schedule = "cosine"
    assert float(steps.schedule(config, 10)(20)) == pytest.approx(0.5)


def test_last_short_batch_is_predicted_like_the_others(config, digits):
    network = networks.build(config, 64, 10)
    x = digits.test.x[:25]
    in_tens = evaluate.predict(network.apply, network.params, x, size=10)
    np.testing.assert_allclose(in_tens, network.apply(network.params, x), rtol=1e-5, atol=1e-6)
