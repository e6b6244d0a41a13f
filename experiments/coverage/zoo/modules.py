"""The same kinds of networks as modules of Flax NNX."""

import itertools
from typing import Any

import jax
from flax import nnx

from experiments.coverage.zoo.registry import Built, filled, models, normal, tokens

Array = jax.Array


class Perceptron(nnx.Module):
    """Dense layers, their activations GELU."""

    def __init__(self, widths: tuple[int, ...], rngs: nnx.Rngs):
        pairs = itertools.pairwise(widths)
        self.layers = nnx.List([nnx.Linear(p, q, rngs=rngs) for p, q in pairs])

    def __call__(self, x: Array) -> Array:
        *hidden, head = self.layers
        for layer in hidden:
            x = nnx.gelu(layer(x))
        return head(x)


class Pictures(nnx.Module):
    """Convolutions with batch norms, a residual sum, dense layers."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.convs = nnx.List([nnx.Conv(16, 16, (3, 3), rngs=rngs) for _ in range(2)])
        self.norms = nnx.List(
            [nnx.BatchNorm(16, use_running_average=True, rngs=rngs) for _ in range(3)]
        )
        self.hidden = nnx.Linear(16 * 16, 48, rngs=rngs)
        self.head = nnx.Linear(48, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.relu(self.norms[0](self.stem(x)))
        y = nnx.relu(self.norms[1](self.convs[0](x)))
        x = nnx.relu(x + self.norms[2](self.convs[1](y)))
        x = nnx.max_pool(x, (4, 4), (4, 4))
        return self.head(nnx.relu(self.hidden(x.reshape(len(x), -1))))


class Layer(nnx.Module):
    """Attention and two dense layers, their norms in front."""

    def __init__(self, rngs: nnx.Rngs, width: int = 32, hidden: int = 64):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.feedforward = Perceptron((width, hidden, width), rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.norms[0](x))
        return x + self.feedforward(self.norms[1](x))


class Encoder(nnx.Module):
    """Words, layers, their mean classified."""

    def __init__(self, rngs: nnx.Rngs, width: int = 32):
        self.embed = nnx.Embed(64, width, rngs=rngs)
        self.layers = nnx.List([Layer(rngs) for _ in range(2)])
        self.head = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, words: Array) -> Array:
        x = self.embed(words)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(-2))


class Stacked(nnx.Module):
    """Layers made by `vmap`, their weights stacked, run by `scan`."""

    def __init__(self, rngs: nnx.Rngs, layers: int = 3, width: int = 32):
        @nnx.split_rngs(splits=layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs: nnx.Rngs) -> Layer:
            return Layer(rngs)

        self.embed = nnx.Embed(64, width, rngs=rngs)
        self.layers = make(rngs)
        self.head = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, words: Array) -> Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x: Array, layer: Layer) -> Array:
            return layer(x)

        return self.head(forward(self.embed(words), self.layers).mean(-2))


def built(make: Any, *inputs: Any) -> Built:
    """The function of a module, its parameters plain dicts of arrays."""
    graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    def apply(params: Any, *inputs: Any) -> Any:
        now = nnx.clone(state)
        nnx.replace_by_pure_dict(now, params)
        return nnx.merge(graph, now)(*inputs)

    return apply, filled(nnx.to_pure_dict(state)), inputs


models(
    nnx_mlp=lambda: built(lambda rngs: Perceptron((20, 64, 48, 10), rngs), normal(4, 20)),
    nnx_resnet=lambda: built(Pictures, normal(2, 16, 16, 3)),
    nnx_transformer=lambda: built(Encoder, tokens(2, 8)),
    nnx_scanned_transformer=lambda: built(Stacked, tokens(2, 8)),
)
