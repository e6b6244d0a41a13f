"""The convolutional networks of the experiments, in NNX; rows of pixels become images inside."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models import Network
from experiments.registry import NETWORKS

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


@NETWORKS.add("cnn")
def cnn(config: Any, inputs: int, classes: int) -> Network:
    """Convolutions and two dense layers: ``image``, ``channels``, ``hidden`` of one width."""
    mine, (hidden,) = config.network, config.network.hidden
    module = CNN(mine.image, mine.channels, hidden, classes, rngs=nnx.Rngs(mine.seed))
    return of_images(module, mine, f"convolutions {_words(mine)}, dense {hidden}-{classes}")


@NETWORKS.add("vgg")
def vgg(config: Any, inputs: int, classes: int) -> Network:
    """Pairs of convolutions with batch norm: ``image``, ``channels``."""
    mine = config.network
    module = VGG(mine.image, mine.channels, classes, rngs=nnx.Rngs(mine.seed))
    return of_images(module, mine, f"VGG, two times {_words(mine)}, batch norm")


@NETWORKS.add("resnet")
def resnet(config: Any, inputs: int, classes: int) -> Network:
    """Residual blocks: ``image``, ``channels`` of one width, ``blocks`` a stage."""
    mine, (width,) = config.network, config.network.channels
    module = ResNet(mine.image, width, mine.blocks, classes, rngs=nnx.Rngs(mine.seed))
    title = f"ResNet-{6 * mine.blocks + 2}, {width} channels, batch norm"
    return of_images(module, mine, title)


def _words(mine: Any) -> str:
    return "-".join(map(str, mine.channels))


def of_images(made: nnx.Module, mine: Any, title: str) -> Network:
    """A module as pure functions of its parameters; running statistics are among them.

    ``mine.augment`` says whether training flips images and shifts them by up to four pixels.
    """
    made.eval()
    graph, state = nnx.split(made)
    made.train()
    learning, _ = nnx.split(made)

    def images(x: jax.Array) -> jax.Array:
        return x.reshape(-1, *mine.image)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graph, params)(images(x))

    def learn(params: Any, x: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        model = nnx.merge(learning, params)
        x = augmented(images(x), key) if mine.augment else images(x)
        logits = model(x)
        return logits, nnx.to_pure_dict(nnx.split(model)[1])

    return Network(apply, nnx.to_pure_dict(state), title, learn)


def augmented(x: jax.Array, key: jax.Array) -> jax.Array:
    """Returns images flipped at random and shifted by up to four pixels."""
    flip, shift = jax.random.split(key)
    x = jnp.where(jax.random.bernoulli(flip, 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x)
    wide = jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
    starts = jax.random.randint(shift, (len(x), 2), 0, 9)

    def cut(image: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), x.shape[1:])

    return jax.vmap(cut)(wide, starts)
