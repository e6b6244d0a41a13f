import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import models


def config(**fields):
    return ConfigDict({"api": "nnx", "hidden": (16, 8), "activation": "relu", "seed": 0, **fields})


@pytest.mark.parametrize("api", ["nnx", "linen"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_network_has_its_shape(api, activation):
    network = models.build(config(api=api, activation=activation), 5, 3)
    assert network.apply(network.params, np.ones((7, 5), np.float32)).shape == (7, 3)
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(network.params)) == 5 * 16 + 16 * 8 + 8 * 3 + 27
    )
    assert network.title == f"5-16-8-3, {activation}"


def test_unknown_api_is_refused():
    with pytest.raises(ValueError, match="haiku"):
        models.build(config(api="haiku"), 5, 3)


def test_weights_are_read(tmp_path):
    network = models.build(config(), 5, 3)
    layers = network.params["layers"]
    arrays = {
        f"{name}_{i}": np.full(leaf.shape, i + 1, np.float32)
        for i, layer in layers.items()
        for name, leaf in layer.items()
    }
    np.savez(tmp_path / "weights.npz", **arrays)
    params = models.read_weights(tmp_path / "weights.npz", network.params)
    assert jax.tree.structure(params) == jax.tree.structure(network.params)
    np.testing.assert_array_equal(params["layers"][1]["kernel"], 2)


def test_weights_of_another_network_are_refused(tmp_path):
    network = models.build(config(), 5, 3)
    np.savez(tmp_path / "few.npz", kernel_0=np.ones((5, 16)), bias_0=np.ones(16))
    with pytest.raises(ValueError, match=r"no (kernel|bias)_1"):
        models.read_weights(tmp_path / "few.npz", network.params)
    np.savez(tmp_path / "wrong.npz", kernel_0=np.ones((5, 7)), bias_0=np.ones(16))
    with pytest.raises(ValueError, match=r"kernel_0 has shape \(5, 7\)"):
        models.read_weights(tmp_path / "wrong.npz", network.params)


def test_weights_are_for_nnx():
    network = models.build(config(api="linen"), 5, 3)
    with pytest.raises(ValueError, match="nnx"):
        models.read_weights("weights.npz", network.params)
