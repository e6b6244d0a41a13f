import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import models, networks


def config(**fields):
    network = {"kind": "mlp", "hidden": (16, 8), "activation": "relu", "seed": 0, **fields}
    return ConfigDict({"network": network, "weights": ""})


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_network_has_its_shape(activation):
    network = networks.build(config(activation=activation), 5, 3)
    assert network.apply(network.params, np.ones((7, 5), np.float32)).shape == (7, 3)
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(network.params)) == 5 * 16 + 16 * 8 + 8 * 3 + 27
    )
    assert network.title == f"5-16-8-3, {activation}"


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"unknown network\.kind 'haiku'; known: mlp"):
        networks.build(config(kind="haiku"), 5, 3)


def test_without_units_the_others_compute_what_they_did():
    network = networks.build(config(), 5, 3)
    kept = [np.arange(16) % 3 > 0, np.arange(8) > 1]
    layers = {
        i: {"kernel": np.array(p["kernel"]), "bias": np.arange(len(p["bias"])) / 9}
        for i, p in network.params["layers"].items()
    }
    small = models.without({"layers": layers}, kept)
    for i, keep in enumerate(kept):
        layers[i + 1]["kernel"][~keep] = 0
    x = np.random.default_rng(0).normal(size=(7, 5))
    np.testing.assert_allclose(
        network.apply(small, x), network.apply({"layers": layers}, x), atol=1e-5
    )


def test_weights_are_read(tmp_path):
    network = networks.build(config(), 5, 3)
    layers = network.params["layers"]
    arrays = {
        f"{name}_{i}": np.full(leaf.shape, i + 1, np.float32)
        for i, layer in layers.items()
        for name, leaf in layer.items()
    }
    np.savez(tmp_path / "weights.npz", **arrays)
    params = networks.read_weights(tmp_path / "weights.npz", network.params)
    assert jax.tree.structure(params) == jax.tree.structure(network.params)
    np.testing.assert_array_equal(params["layers"][1]["kernel"], 2)


def test_weights_of_another_network_are_refused(tmp_path):
    network = networks.build(config(), 5, 3)
    np.savez(tmp_path / "few.npz", kernel_0=np.ones((5, 16)), bias_0=np.ones(16))
    with pytest.raises(ValueError, match=r"no (kernel|bias)_1"):
        networks.read_weights(tmp_path / "few.npz", network.params)
    np.savez(tmp_path / "wrong.npz", kernel_0=np.ones((5, 7)), bias_0=np.ones(16))
    with pytest.raises(ValueError, match=r"kernel_0 has shape \(5, 7\)"):
        networks.read_weights(tmp_path / "wrong.npz", network.params)


def test_weights_are_for_dense_networks():
    with pytest.raises(ValueError, match="dense"):
        networks.read_weights("weights.npz", {"conv": np.ones((3, 3))})
