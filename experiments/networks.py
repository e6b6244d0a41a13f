"""Finds a network by its config; ``registry.NETWORKS`` has all by their kind."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import architectures, lumping, pretrained
from experiments.models import Network, Params
from experiments.registry import NETWORKS

MODULES = (architectures, lumping, pretrained)  # each registers its networks


def build(config: Any, inputs: int, classes: int) -> Network:
    """Returns the network that ``config.network.kind`` names, freshly initialised.

    With ``config.weights``, a file, it has these instead: see :func:`read_weights` for dense
    networks, ``pretrained`` for those that others trained.
    """
    network = NETWORKS.find(config.network.get("kind", "mlp"))(config, inputs, classes)
    if config.weights and not network.trained:
        params = read_weights(config.weights, network.params)
        return network._replace(params=params, trained=True)
    return network


def read_weights(path: str, params: Params) -> Params:
    """Returns parameters like ``params``, with ``kernel_i`` and ``bias_i`` of an npz file."""
    if "layers" not in params:
        raise ValueError("config.weights are read into dense networks and those others trained")

    def read(name: str, like: jax.Array) -> jax.Array:
        if name not in file:
            raise ValueError(f"the weights file has no {name}; it has {', '.join(file)}")
        if file[name].shape != like.shape:
            raise ValueError(f"{name} has shape {file[name].shape}; the network's is {like.shape}")
        return jnp.asarray(file[name], like.dtype)

    with np.load(path) as file:
        layers = {
            i: {name: read(f"{name}_{i}", leaf) for name, leaf in layer.items()}
            for i, layer in params["layers"].items()
        }
    return {"layers": layers}
