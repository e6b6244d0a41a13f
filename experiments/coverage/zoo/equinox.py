"""Networks of Equinox' layers, which treat one example: batches are theirs under `vmap`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.coverage.zoo.registry import Built, filled, model, models, normal, tokens


def built(make: Callable[[Any, jax.Array], Any], *inputs: jax.Array) -> Built:
    """The function of a module, over a batch; its arrays are the parameters."""
    import equinox

    shapes = equinox.filter_eval_shape(make, equinox.nn, jax.random.key(0))
    arrays, rest = equinox.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def apply(params: Any, *inputs: jax.Array) -> Any:
        return jax.vmap(equinox.combine(params, rest))(*inputs)

    return apply, filled(arrays), inputs


@model("eqx_cnn", "equinox")
def cnn() -> Built:
    def make(nn: Any, key: jax.Array) -> Any:
        a, b, c, d = jax.random.split(key, 4)
        return nn.Sequential(
            [
                nn.Conv2d(3, 16, 3, padding=1, key=a),
                nn.GroupNorm(4, 16),
                nn.Lambda(jax.nn.relu),
                nn.MaxPool2d(2, 2),
                nn.Conv2d(16, 24, 3, padding=1, key=b),
                nn.Lambda(jax.nn.relu),
                nn.AdaptiveAvgPool2d(2),
                nn.Lambda(jnp.ravel),
                nn.Linear(24 * 4, 32, key=c),
                nn.Lambda(jax.nn.relu),
                nn.Linear(32, 10, key=d),
            ]
        )

    return built(make, normal(2, 3, 16, 16))


@model("eqx_transformer", "equinox")
def transformer() -> Built:
    import equinox

    class Layer(equinox.Module):
        """Attention and two dense layers, their norms in front."""

        attention: Any
        feedforward: Any
        norms: list

        def __init__(self, nn: Any, key: jax.Array, width: int = 32):
            a, b = jax.random.split(key)
            self.attention = nn.MultiheadAttention(4, width, key=a)
            self.feedforward = nn.MLP(width, width, 64, 1, jax.nn.gelu, key=b)
            self.norms = [nn.LayerNorm(width), nn.RMSNorm(width)]

        def __call__(self, x: jax.Array) -> jax.Array:
            y = jax.vmap(self.norms[0])(x)
            x = x + self.attention(y, y, y)
            return x + jax.vmap(self.feedforward)(jax.vmap(self.norms[1])(x))

    class Encoder(equinox.Module):
        """Words, layers, their mean classified."""

        embed: Any
        layers: list
        head: Any

        def __init__(self, nn: Any, key: jax.Array):
            a, b, *keys = jax.random.split(key, 4)
            self.embed = nn.Embedding(64, 32, key=a)
            self.layers = [Layer(nn, k) for k in keys]
            self.head = nn.Linear(32, 3, key=b)

        def __call__(self, words: jax.Array) -> jax.Array:
            x = jax.vmap(self.embed)(words)
            for layer in self.layers:
                x = layer(x)
            return self.head(x.mean(0))

    return built(Encoder, tokens(2, 8))


@model("eqx_mlp_mixer", "equinox")
def mlp_mixer() -> Built:
    import equinox

    class Mixer(equinox.Module):
        """Dense layers over places and channels by turns, (channels, places)."""

        patches: Any
        places: list
        channels: list
        norms: list
        head: Any

        def __init__(self, nn: Any, key: jax.Array, width: int = 24, count: int = 16):
            keys = jax.random.split(key, 6)
            self.patches = nn.Conv2d(3, width, 4, 4, key=keys[0])
            self.places = [nn.MLP(count, count, 32, 1, jax.nn.gelu, key=k) for k in keys[1:3]]
            self.channels = [nn.MLP(width, width, 48, 1, jax.nn.gelu, key=k) for k in keys[3:5]]
            self.norms = [nn.LayerNorm((width, count)) for _ in range(4)]
            self.head = nn.Linear(width, 10, key=keys[5])

        def __call__(self, x: jax.Array) -> jax.Array:
            x = self.patches(x)
            x = x.reshape(x.shape[0], -1)
            for k in range(2):
                x = x + jax.vmap(self.places[k])(self.norms[2 * k](x))
                y = self.norms[2 * k + 1](x)
                x = x + jax.vmap(self.channels[k], 1, 1)(y)
            return self.head(x.mean(1))

    return built(Mixer, normal(2, 3, 16, 16))


@model("eqx_gru", "equinox")
def gru() -> Built:
    import equinox

    class Reader(equinox.Module):
        """A recurrent cell under `scan`, its last state classified."""

        cell: Any
        head: Any

        def __init__(self, nn: Any, key: jax.Array):
            a, b = jax.random.split(key)
            self.cell, self.head = nn.GRUCell(6, 24, key=a), nn.Linear(24, 4, key=b)

        def __call__(self, x: jax.Array) -> jax.Array:
            def step(state: jax.Array, now: jax.Array) -> tuple[jax.Array, None]:
                return self.cell(now, state), None

            return self.head(jax.lax.scan(step, jnp.zeros(24), x)[0])

    return built(Reader, normal(2, 8, 6))


models(
    "equinox",
    eqx_mlp=lambda: built(lambda nn, key: nn.MLP(20, 10, 48, 3, key=key), normal(4, 20)),
)
