"""The networks that dm-haiku comes with, and a transformer of its layers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.coverage.zoo.registry import Built, filled, models, normal, tokens


def built(forward: Callable, *inputs: jax.Array) -> Built:
    """The function of a network that is given the package and its inputs.

    Its state, where it has one, is among the parameters.
    """
    import haiku

    pair = haiku.without_apply_rng(haiku.transform_with_state(lambda *x: forward(haiku, *x)))
    params, state = jax.eval_shape(pair.init, jax.random.key(0), *inputs)
    if not state:
        return lambda p, *x: pair.apply(p, {}, *x)[0], filled(params), inputs
    both = filled({"params": params, "state": state})
    # Averages exist only after a step of training: `init` runs one, `apply` none.
    return lambda p, *x: pair.apply(p["params"], p["state"], *x)[0], spread(both), inputs


def spread(params: Any) -> Any:
    """The same with the averages of means about zero, as `filled` can't tell them apart."""

    def centred(path: tuple, leaf: Any) -> Any:
        means = any("mean_ema" in str(getattr(k, "key", "")) for k in path)
        return leaf - 1 if means and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree_util.tree_map_with_path(centred, params)


def mobilenet_v1(hk: Any, x: jax.Array) -> jax.Array:
    """The network's widths are fixed: its strides are what makes it cheap here."""
    net = hk.nets.MobileNetV1((1, 2, 2, 2, 1), (16, 32, 32, 48, 64), 10)
    return net(x, is_training=hk.running_init())


def resnet(second: bool, bottleneck: bool = True) -> Built:
    """A ResNet of either version, narrow."""

    def run(hk: Any, x: jax.Array) -> jax.Array:
        stem = {"output_channels": 16, "kernel_shape": 3, "stride": 1}
        net = hk.nets.ResNet(
            (1, 2, 1, 1), 10, resnet_v2=second, bottleneck=bottleneck,
            channels_per_group=(16, 24, 32, 48), use_projection=(True,) * 4,
            initial_conv_config=stem,
        )  # fmt: skip
        return net(x, is_training=hk.running_init())

    return built(run, normal(1, 32, 32, 3))


def transformer_lm(hk: Any, words: jax.Array) -> jax.Array:
    """Attention that hides the future, and two dense layers, twice."""
    width, length = 32, words.shape[-1]
    make = hk.initializers.VarianceScaling(0.5)

    def norm(x: jax.Array) -> jax.Array:
        return hk.LayerNorm(-1, True, True)(x)

    x = hk.Embed(64, width)(words)
    x = x + hk.get_parameter("positions", (length, width), init=jnp.zeros)
    past = np.tril(np.ones((1, 1, length, length), bool))
    for _ in range(2):
        y = norm(x)
        x = x + hk.MultiHeadAttention(4, 8, w_init=make, model_size=width)(y, y, y, mask=past)
        y = jax.nn.gelu(hk.Linear(64)(norm(x)))
        x = x + hk.Linear(width)(y)
    return hk.Linear(64)(norm(x))


def lstm(hk: Any, x: jax.Array) -> jax.Array:
    """Two recurrent cells, unrolled."""
    core = hk.DeepRNN([hk.LSTM(24), jax.nn.tanh, hk.GRU(16)])
    y, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
    return hk.Linear(4)(y)


models(
    "haiku",
    haiku_mlp=lambda: built(lambda hk, x: hk.nets.MLP([64, 48, 10])(x), normal(4, 20)),
    haiku_mobilenet_v1=lambda: built(mobilenet_v1, normal(1, 32, 32, 3)),
    haiku_resnet_v1=lambda: resnet(False),
    haiku_resnet_v2=lambda: resnet(True),
    haiku_resnet18=lambda: resnet(False, bottleneck=False),
    haiku_transformer_lm=lambda: built(transformer_lm, tokens(2, 8)),
    haiku_lstm=lambda: built(lstm, normal(6, 2, 5)),
)
