"""Keras' applications and text layers, on JAX."""

import importlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.coverage.zoo.registry import Built, filled, model, normal, tokens

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


def narrowed(module: str, name: str, side: int, factor: int) -> Built:
    """An application whose layers are all narrower by a factor."""

    def make(keras: Any) -> Any:
        code: Any = importlib.import_module(f"keras.src.applications.{module}")
        code.layers = Narrow(keras.layers, factor)
        try:
            return getattr(code, name)(weights=None, input_shape=(side, side, 3), classes=CLASSES)
        finally:
            code.layers = keras.layers

    return built(make, normal(1, side, side, 3))


def application(name: str, side: int = 32, **options: Any) -> Built:
    """An application with random weights, on one small picture."""

    def make(keras: Any) -> Any:
        build = getattr(keras.applications, name)
        shape = (side, side, 3)
        return build(weights=None, input_shape=shape, classes=CLASSES, **options)

    return built(make, normal(1, side, side, 3))


@model("keras_resnet50v2", "keras")
def resnet50v2() -> Built:
    def make(keras: Any) -> Any:
        from keras.src.applications import resnet

        def stack(x: Any) -> Any:
            for k, width in enumerate((8, 16, 24)):
                x = resnet.stack_residual_blocks_v2(x, width, 2, name=f"stage_{k}")
            return x

        return resnet.ResNet(
            stack,
            preact=True,
            use_bias=True,
            weights=None,
            input_shape=(32, 32, 3),
            classes=CLASSES,
            weights_name="small",
        )

    return built(make, normal(1, 32, 32, 3))


@model("keras_vgg16", "keras")
def vgg16() -> Built:
    return narrowed("vgg16", "VGG16", 32, 16)


@model("keras_densenet", "keras")
def densenet() -> Built:
    def make(keras: Any) -> Any:
        from keras.src.applications import densenet

        return densenet.DenseNet(
            [2, 2, 2, 2], weights=None, input_shape=(32, 32, 3), classes=CLASSES
        )

    return built(make, normal(1, 32, 32, 3))


@model("keras_inception_v3", "keras")
def inception_v3() -> Built:
    return narrowed("inception_v3", "InceptionV3", 75, 16)


@model("keras_mobilenet", "keras")
def mobilenet() -> Built:
    return application("MobileNet", alpha=0.25)


@model("keras_mobilenet_v2", "keras")
def mobilenet_v2() -> Built:
    return application("MobileNetV2", alpha=0.35)


@model("keras_mobilenet_v3_small", "keras")
def mobilenet_v3_small() -> Built:
    return application("MobileNetV3Small", alpha=0.5, minimalistic=False)


@model("keras_efficientnet", "keras")
def efficientnet() -> Built:
    def make(keras: Any) -> Any:
        from keras.src.applications import efficientnet

        return efficientnet.EfficientNet(
            0.25, 0.5, 32, weights=None, input_shape=(32, 32, 3), classes=CLASSES, name="small"
        )

    return built(make, normal(1, 32, 32, 3))


@model("keras_efficientnet_v2", "keras")
def efficientnet_v2() -> Built:
    def make(keras: Any) -> Any:
        from keras.src.applications import efficientnet_v2

        return efficientnet_v2.EfficientNetV2(
            0.25,
            0.4,
            32,
            weights=None,
            input_shape=(32, 32, 3),
            classes=CLASSES,
            name="efficientnetv2-b0",
        )

    return built(make, normal(1, 32, 32, 3))


@model("keras_xception", "keras")
def xception() -> Built:
    return narrowed("xception", "Xception", 71, 16)


@model("keras_nasnet_mobile", "keras")
def nasnet_mobile() -> Built:
    def make(keras: Any) -> Any:
        from keras.src.applications import nasnet

        return nasnet.NASNet(
            input_shape=(32, 32, 3),
            penultimate_filters=192,
            num_blocks=1,
            stem_block_filters=16,
            skip_reduction=False,
            filter_multiplier=2,
            weights=None,
            classes=CLASSES,
            default_size=32,
        )

    return built(make, normal(1, 32, 32, 3))


@model("keras_convnext", "keras")
def convnext() -> Built:
    def make(keras: Any) -> Any:
        from keras.src.applications import convnext

        return convnext.ConvNeXt(
            depths=[1, 1, 2, 1],
            projection_dims=[8, 16, 24, 32],
            weights=None,
            input_shape=(32, 32, 3),
            classes=CLASSES,
            name="small",
        )

    return built(make, normal(1, 32, 32, 3))


@model("keras_lstm_text", "keras")
def lstm_text() -> Built:
    def make(keras: Any) -> Any:
        layers = keras.layers
        words = keras.Input((8,), dtype="int32")
        x = layers.Embedding(64, 24)(words)
        x = layers.Bidirectional(layers.LSTM(24, return_sequences=True))(x)
        x = layers.Bidirectional(layers.GRU(16))(x)
        return keras.Model(words, layers.Dense(3)(layers.Dense(24, "relu")(x)))

    return built(make, tokens(2, 8))


@model("keras_transformer_text", "keras")
def transformer_text() -> Built:
    def make(keras: Any) -> Any:
        layers = keras.layers
        words = keras.Input((8,), dtype="int32")
        x = layers.Embedding(64, 32)(words)
        y = layers.MultiHeadAttention(4, 8)(x, x)
        x = layers.LayerNormalization()(x + layers.Dropout(0.1)(y))
        y = layers.Dense(32)(layers.Dense(64, "relu")(x))
        x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x + y))
        return keras.Model(words, layers.Dense(2)(layers.Dense(20, "relu")(x)))

    return built(make, tokens(2, 8))
