"""The convolutional networks of the experiments, in NNX; rows of pixels become images inside."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Image = tuple[int, int, int]


class CNN(nnx.Module):
    """Convolutions with max pooling behind each, then two dense layers."""

    def __init__(self, image: Image, channels: Sequence[int], hidden: int, classes: int, *,
                 rngs: nnx.Rngs):  # fmt: skip
        pairs = itertools.pairwise((image[2], *channels))
        self.convs = nnx.List(nnx.Conv(p, q, (3, 3), rngs=rngs) for p, q in pairs)
        height, width = (side >> len(channels) for side in image[:2])
        self.dense = nnx.Linear(height * width * channels[-1], hidden, rngs=rngs)
        self.head = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for conv in self.convs:
            x = nnx.max_pool(nnx.relu(conv(x)), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        return self.head(nnx.relu(self.dense(x)))


class VGG(nnx.Module):
    """Pairs of convolutions with batch norm, max pooling behind each pair, a mean, a dense head."""

    def __init__(self, image: Image, channels: Sequence[int], classes: int, *, rngs: nnx.Rngs):
        widths = [image[2], *itertools.chain(*((c, c) for c in channels))]
        pairs = list(itertools.pairwise(widths))
        self.convs = nnx.List(nnx.Conv(p, q, (3, 3), use_bias=False, rngs=rngs) for p, q in pairs)
        self.norms = nnx.List(nnx.BatchNorm(q, momentum=0.9, rngs=rngs) for _, q in pairs)
        self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = nnx.relu(norm(conv(x)))
            if i % 2 and i + 1 < len(self.convs):
                x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.head(x.mean((1, 2)))


class Block(nnx.Module):
    """Two convolutions with batch norm beside a path that carries their input.

    Reference: He, Zhang, Ren and Sun, Deep residual learning, 2015, arXiv 1512.03385.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        conv = functools.partial(nnx.Conv, use_bias=False, rngs=rngs)
        self.first = conv(inputs, outputs, (3, 3), strides=stride)
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        self.second = conv(outputs, outputs, (3, 3))
        self.last_norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)
        same = stride == 1 and inputs == outputs
        self.short = None if same else conv(inputs, outputs, (1, 1), strides=stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        inside = nnx.relu(self.norm(self.first(x)))
        path = x if self.short is None else self.short(x)
        return nnx.relu(path + self.last_norm(self.second(inside)))


class ResNet(nnx.Module):
    """Three stages of residual blocks, each with half the extent and twice the channels."""

    def __init__(self, image: Image, width: int, blocks: int, classes: int, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(image[2], width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        made, inputs = [], width
        for stage, block in itertools.product(range(3), range(blocks)):
            outputs = width << stage
            stride = 2 if stage and not block else 1
            made.append(Block(inputs, outputs, stride, rngs=rngs))
            inputs = outputs
        self.blocks = nnx.List(made)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


def module(config: Any, classes: int) -> tuple[nnx.Module, str]:
    """Returns a network's module and its shape in words.

    Args:
      config: ``kind``, ``"cnn"``, ``"vgg"`` or ``"resnet"``; ``image``, (height, width,
        channels); ``channels``; for a CNN ``hidden``, one width; for a ResNet ``blocks`` a
        stage; ``seed``.
      classes: number of outputs.
    """
    image, channels, rngs = tuple(config.image), tuple(config.channels), nnx.Rngs(config.seed)
    words = "-".join(map(str, channels))
    if config.kind == "cnn":
        (hidden,) = config.hidden
        title = f"convolutions {words}, dense {hidden}-{classes}"
        return CNN(image, channels, hidden, classes, rngs=rngs), title
    if config.kind == "vgg":
        return VGG(image, channels, classes, rngs=rngs), f"VGG, two times {words}, batch norm"
    if config.kind == "resnet":
        (width,) = channels
        title = f"ResNet-{6 * config.blocks + 2}, {width} channels, batch norm"
        return ResNet(image, width, config.blocks, classes, rngs=rngs), title
    raise ValueError(f'config.network.kind is "mlp", "cnn", "vgg" or "resnet", not {config.kind!r}')


def functions(
    made: nnx.Module, image: Image, augment: bool
) -> tuple[Callable[..., Any], Callable[..., Any], Any]:
    """Returns a network as pure functions of its parameters.

    Args:
      made: the module.
      image: extent of its images; rows are given flat.
      augment: whether training flips images and shifts them by up to four pixels.

    Returns:
      ``logits = apply(params, x)`` for inference; ``logits, params = learn(params, x, key)``
      for training, which returns the parameters with the running statistics of batch norm;
      and the parameters, statistics among them.
    """
    made.eval()
    graph, state = nnx.split(made)
    made.train()
    learning, _ = nnx.split(made)

    def images(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *image)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(images(x))

    def learn(params: Any, x: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        model = nnx.merge(learning, params)
        x = augmented(images(x), key) if augment else images(x)
        logits = model(x)
        return logits, nnx.to_pure_dict(nnx.split(model)[1])

    return apply, learn, nnx.to_pure_dict(state)


def augmented(x: jax.Array, key: jax.Array) -> jax.Array:
    """Returns images flipped at random and shifted by up to four pixels."""
    flip, shift = jax.random.split(key)
    x = jnp.where(jax.random.bernoulli(flip, 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x)
    wide = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    starts = jax.random.randint(shift, (len(x), 2), 0, 9)

    def cut(image: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), x.shape[1:])

    return jax.vmap(cut)(wide, starts)
