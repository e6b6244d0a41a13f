"""Keras' applications and text layers, on JAX."""

import importlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.coverage.zoo.registry import Built, filled, models, normal, tokens

CLASSES = 10


def built(make: Callable[[Any], Any], *inputs: jax.Array) -> Built:
    """The function of the model that `make` builds from Keras' modules.

    Its variables are a dict by path; counters and the seeds of dropout stay out of it.
    """
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise RuntimeError(f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=jax")
    keras.utils.clear_session()  # layers are numbered from one: paths don't depend on the order
    net = make(keras)

    def weighs(variable: Any) -> bool:
        return jnp.issubdtype(variable.dtype, jnp.floating)

    shapes = {v.path: jax.ShapeDtypeStruct(v.shape, v.dtype) for v in net.variables if weighs(v)}
    if len(shapes) != sum(weighs(v) for v in net.variables):
        raise ValueError("two variables have the same path")
    fixed = {v.path: np.asarray(v.value) for v in net.variables if not weighs(v)}

    def apply(params: dict, *inputs: jax.Array) -> Any:
        values = {**fixed, **params}
        parts = net.trainable_variables, net.non_trainable_variables
        trained, others = ([values[v.path] for v in part] for part in parts)
        outputs, _ = net.stateless_call(trained, others, *inputs, training=False)
        return outputs

    return apply, filled(shapes), inputs


class Narrow:
    """Keras' layers with fewer channels, for applications whose widths are no arguments."""

    def __init__(self, layers: Any, factor: int):
        self._layers, self._factor = layers, factor

    def __getattr__(self, name: str) -> Any:
        layer = getattr(self._layers, name)
        if name not in ("Conv2D", "SeparableConv2D", "Dense"):
            return layer

        def narrow(width: int, *args: Any, **options: Any) -> Any:
            kept = width if width == CLASSES else max(4, width // self._factor)
            return layer(kept, *args, **options)

        return narrow


def application(
    module: str, maker: str, /, *args: Any, side: int = 32, factor: int = 1, **options: Any
) -> Built:
    """An application with random weights, on one small picture; all layers narrower by a factor."""

    def make(keras: Any) -> Any:
        code: Any = importlib.import_module(f"keras.src.applications.{module}")
        shape = {"weights": None, "input_shape": (side, side, 3), "classes": CLASSES}
        code.layers = Narrow(keras.layers, factor) if factor > 1 else keras.layers
        try:
            return getattr(code, maker)(*args, **shape, **options)
        finally:
            code.layers = keras.layers

    return built(make, normal(1, side, side, 3))


def stack(x: Any) -> Any:
    """Stages of a narrow ResNet."""
    from keras.src.applications import resnet

    for k, width in enumerate((8, 16, 24)):
        x = resnet.stack_residual_blocks_v2(x, width, 2, name=f"stage_{k}")
    return x


def recurrent(keras: Any) -> Any:
    """Words through cells in both directions, a classifier."""
    layers = keras.layers
    words = keras.Input((8,), dtype="int32")
    x = layers.Embedding(64, 24)(words)
    x = layers.Bidirectional(layers.LSTM(24, return_sequences=True))(x)
    x = layers.Bidirectional(layers.GRU(16))(x)
    return keras.Model(words, layers.Dense(3)(layers.Dense(24, "relu")(x)))


def attentive(keras: Any) -> Any:
    """A layer of a transformer on words, their mean classified."""
    layers = keras.layers
    words = keras.Input((8,), dtype="int32")
    x = layers.Embedding(64, 32)(words)
    y = layers.MultiHeadAttention(4, 8)(x, x)
    x = layers.LayerNormalization()(x + layers.Dropout(0.1)(y))
    y = layers.Dense(32)(layers.Dense(64, "relu")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x + y))
    return keras.Model(words, layers.Dense(2)(layers.Dense(20, "relu")(x)))


CELLS = {"penultimate_filters": 192, "num_blocks": 1, "stem_block_filters": 16}
CELLS |= {"skip_reduction": False, "filter_multiplier": 2, "default_size": 32}

models(
    "keras",
    keras_resnet50v2=lambda: application(
        "resnet", "ResNet", stack, preact=True, use_bias=True, weights_name="small"
    ),
    keras_vgg16=lambda: application("vgg16", "VGG16", factor=16),
    keras_densenet=lambda: application("densenet", "DenseNet", [2, 2, 2, 2]),
    keras_inception_v3=lambda: application("inception_v3", "InceptionV3", side=75, factor=16),
    keras_mobilenet=lambda: application("mobilenet", "MobileNet", alpha=0.25),
    keras_mobilenet_v2=lambda: application("mobilenet_v2", "MobileNetV2", alpha=0.35),
    keras_mobilenet_v3_small=lambda: application(
        "mobilenet_v3", "MobileNetV3Small", alpha=0.5, minimalistic=False
    ),
    keras_efficientnet=lambda: application(
        "efficientnet", "EfficientNet", 0.25, 0.5, 32, name="small"
    ),
    keras_efficientnet_v2=lambda: application(
        "efficientnet_v2", "EfficientNetV2", 0.25, 0.4, 32, name="efficientnetv2-b0"
    ),
    keras_xception=lambda: application("xception", "Xception", side=71, factor=16),
    keras_nasnet_mobile=lambda: application("nasnet", "NASNet", **CELLS),
    keras_convnext=lambda: application(
        "convnext", "ConvNeXt", [1, 1, 2, 1], [8, 16, 24, 32], name="small"
    ),
    keras_lstm_text=lambda: built(recurrent, tokens(2, 8)),
    keras_transformer_text=lambda: built(attentive, tokens(2, 8)),
)
