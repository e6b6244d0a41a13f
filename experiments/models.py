"""What a network is, and the dense ones."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from experiments.registry import NETWORKS

Array = Any
Params = Any


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      apply: ``logits = apply(params, x)``, for inference.
      params: its first parameters.
      title: its shape in words.
      learn: ``logits, params = learn(params, x, key)`` for training, the parameters with new
        running statistics; None where training is as inference.
      before: ``values = before(params, x)``, the pre-activations of all layers, the logits last,
        of dense networks with parameters ``{"layers": {i: {"kernel", "bias"}}}``: these can be
        trained beside others, with penalties, and pruned while they are trained.
      trained: whether the parameters are final.
    """

    apply: Callable[..., Any]
    params: Params
    title: str
    learn: Callable[..., Any] | None = None
    before: Callable[..., list[Array]] | None = None
    trained: bool = False


def dense(layers: dict[int, Any], activation: str) -> Network:
    """Dense layers with an activation, a function of ``jax.nn``, between each and the next."""
    bend = getattr(jax.nn, activation)

    def before(params: Params, x: Array) -> list[Array]:
        values: list[Array] = []
        for _, part in sorted(params["layers"].items()):
            x = bend(values[-1]) if values else x
            values.append(x @ part["kernel"] + part["bias"])
        return values

    widths = [len(layers[0]["kernel"]), *(len(part["bias"]) for part in layers.values())]
    title = f"{'-'.join(map(str, widths))}, {activation}"
    return Network(
        lambda params, x: before(params, x)[-1], {"layers": layers}, title, before=before
    )


def lecun(seed: int, widths: Sequence[int]) -> dict[int, Any]:
    """First parameters of dense layers as NNX has them: LeCun's normal kernels, biases of zero."""
    rngs = nnx.Rngs(seed)
    made = [nnx.Linear(p, q, rngs=rngs) for p, q in itertools.pairwise(widths)]
    return {i: nnx.to_pure_dict(nnx.state(layer)) for i, layer in enumerate(made)}


@NETWORKS.add("mlp")
def mlp(config: Any, inputs: int, classes: int) -> Network:
    """Dense layers: ``hidden`` widths, ``activation``, ``seed``."""
    mine = config.network
    return dense(lecun(mine.seed, (inputs, *mine.hidden, classes)), mine.activation)


def without(params: Params, kept: Sequence[np.ndarray]) -> Params:
    """Removes units of dense layers: ``kept`` says by layer which stay."""
    layers, reads = {}, np.ones(len(params["layers"][0]["kernel"]), bool)
    stays = [*kept, np.ones(len(params["layers"][len(kept)]["bias"]), bool)]
    for i, own in enumerate(stays):
        part = params["layers"][i]
        layers[i] = {"kernel": part["kernel"][reads][:, own], "bias": part["bias"][own]}
        reads = own
    return {"layers": layers}
