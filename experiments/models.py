"""The networks of the experiments, as pure functions of their parameters."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from experiments import convnets, transformers

Params = Any


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      apply: ``logits = apply(params, x)``, for inference.
      params: its first parameters.
      title: its shape in words.
      learn: ``logits, params = learn(params, x, key)`` for training, the parameters with new
        running statistics; None where training is as inference.
    """

    apply: Callable[..., Any]
    params: Params
    title: str
    learn: Callable[..., Any] | None = None


class MLP(nnx.Module):
    """Dense layers with an activation between each and the next, in NNX."""

    def __init__(self, widths: Sequence[int], activation: Callable, *, rngs: nnx.Rngs):
        self.layers = nnx.List(nnx.Linear(p, q, rngs=rngs) for p, q in itertools.pairwise(widths))
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        *hidden, head = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return head(x)


class LinenMLP(linen.Module):
    """The same network in Linen."""

    widths: Sequence[int]
    activation: Callable

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *hidden, outputs = self.widths[1:]
        for width in hidden:
            x = self.activation(linen.Dense(width)(x))
        return linen.Dense(outputs)(x)


def build(config: Any, inputs: int, classes: int) -> Network:
    """Returns a freshly initialised network.

    Args:
      config: ``kind``; for ``"mlp"`` ``hidden``, the hidden widths; ``activation``, a
        function's name in ``jax.nn``; ``api``, ``"nnx"`` or ``"linen"``; ``seed``; for the
        others as in ``convnets.module``, and ``augment``, or ``transformers.module``.
      inputs: number of input features.
      classes: number of outputs.
    """
    kind = config.get("kind", "mlp")
    if kind in ("vit", "lm"):
        made, title = transformers.module(config, inputs, classes)
        graph, state = nnx.split(made)
        params = nnx.to_pure_dict(state)
        return Network(lambda params, x: nnx.merge(graph, params)(x), params, title)
    if kind != "mlp":
        made, title = convnets.module(config, classes)
        apply, learn, params = convnets.functions(made, tuple(config.image), config.augment)
        return Network(apply, params, title, learn)
    widths = (inputs, *config.hidden, classes)
    activation = getattr(jax.nn, config.activation)
    title = f"{'-'.join(map(str, widths))}, {config.activation}"
    if config.api == "nnx":
        graph, state = nnx.split(MLP(widths, activation, rngs=nnx.Rngs(config.seed)))
        params = nnx.to_pure_dict(state)
        return Network(lambda params, x: nnx.merge(graph, params)(x), params, title)
    if config.api == "linen":
        model = LinenMLP(widths, activation)
        variables = model.init(jax.random.key(config.seed), jnp.zeros((1, inputs)))
        return Network(model.apply, variables, title)
    raise ValueError(f'config.network.api is "nnx" or "linen", not {config.api!r}')


def read_weights(path: str, params: Params) -> Params:
    """Returns parameters like ``params``, with ``kernel_i`` and ``bias_i`` of an npz file.

    Layer i of the file becomes the i-th layer of an NNX network made by :func:`build`.
    """
    if "layers" not in params:
        raise ValueError('config.weights are read into a network with config.network.api = "nnx"')
    with np.load(path) as file:
        return {
            "layers": {
                i: {name: _checked(file, f"{name}_{i}", leaf) for name, leaf in layer.items()}
                for i, layer in params["layers"].items()
            }
        }


def _checked(file: Any, name: str, like: jax.Array) -> jax.Array:
    if name not in file:
        raise ValueError(f"the weights file has no {name}; it has {', '.join(file)}")
    if file[name].shape != like.shape:
        raise ValueError(f"{name} has shape {file[name].shape}; the network's is {like.shape}")
    return jnp.asarray(file[name], like.dtype)
