"""Networks of vectors, agents and graphs, in Flax Linen and bare JAX."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.coverage.zoo.registry import layered, linen, models, normal, tokens

Array = jax.Array


class MLP(nn.Module):
    """Dense layers with an activation between them."""

    widths: Sequence[int]
    norm: bool = False
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.widths[:-1]:
            x = nn.Dense(width)(x)
            if self.norm:
                x = nn.LayerNorm()(x)
            x = getattr(jax.nn, self.activation)(x)
        return nn.Dense(self.widths[-1])(x)


class Recommender(nn.Module):
    """DLRM: embedded categories and a dense tower, all their products, a tower on top."""

    residual: bool = False

    @nn.compact
    def __call__(self, numbers: Array, categories: Array) -> Array:
        x = nn.relu(MLP((32, 16))(numbers))
        embedded = [nn.Embed(40, 16)(categories[:, k]) for k in range(categories.shape[1])]
        all_ = jnp.stack([x, *embedded], 1)
        products = jnp.einsum("bip,bjp->bij", all_, all_)
        rows, columns = np.tril_indices(all_.shape[1], -1)
        x = jnp.concatenate([x, products[:, rows, columns]], -1)
        for width in (32, 32):
            y = nn.relu(nn.Dense(width)(x))
            x = x + y if self.residual and x.shape == y.shape else y
        return nn.Dense(1)(x)


class Atari(nn.Module):
    """The network of PPO on frames: convolutions, a dense layer, a policy and a value."""

    @nn.compact
    def __call__(self, frames: Array) -> tuple[Array, Array]:
        x = nn.relu(nn.Conv(16, (8, 8), (4, 4))(frames / 255))
        x = nn.relu(nn.Conv(24, (4, 4), (2, 2))(x))
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.log_softmax(nn.Dense(6)(x)), nn.Dense(1)(x)


class Actor(nn.Module):
    """PPO's Gaussian policy of a body: means, spreads that don't depend on the input, a value."""

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        mean = MLP((32, 32, 4), activation="tanh")(x)
        spread = self.param("log_spread", nn.initializers.normal(), (4,))
        return mean, jnp.exp(spread), MLP((32, 32, 1), activation="tanh")(x)


class Dueling(nn.Module):
    """A deep Q network with a value and advantages."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(nn.Dense(48)(x))
        value = nn.Dense(1)(nn.relu(nn.Dense(24)(x)))
        advantage = nn.Dense(5)(nn.relu(nn.Dense(24)(x)))
        return value + advantage - advantage.mean(-1, keepdims=True)


class Convolved(nn.Module):
    """A graph convolutional network: neighbours are summed, by degree."""

    @nn.compact
    def __call__(self, nodes: Array, senders: Array, receivers: Array) -> Array:
        count = len(nodes)
        degree = 1 + jax.ops.segment_sum(jnp.ones(len(senders)), receivers, count)
        weight = jax.lax.rsqrt(degree)[:, None]
        for width in (32, 24):
            x = nn.Dense(width)(nodes) * weight
            x = x + jax.ops.segment_sum(x[senders], receivers, count)
            nodes = nn.relu(x * weight)
        return nn.Dense(4)(nodes.mean(0))


class Messages(nn.Module):
    """A graph network: edges, then nodes, are updated by dense layers from what they touch."""

    @nn.compact
    def __call__(self, nodes: Array, edges: Array, senders: Array, receivers: Array) -> Array:
        nodes, edges = nn.Dense(24)(nodes), nn.Dense(16)(edges)
        for _ in range(2):
            seen = jnp.concatenate([edges, nodes[senders], nodes[receivers]], -1)
            edges = edges + MLP((32, 16))(seen)
            inbox = jax.ops.segment_sum(edges, receivers, len(nodes))
            nodes = nodes + MLP((32, 24))(jnp.concatenate([nodes, inbox], -1))
        return nn.Dense(4)(nodes.sum(0))


class Attended(nn.Module):
    """A graph attention network: a softmax over the edges that reach a node."""

    heads: int = 2
    size: int = 12

    @nn.compact
    def __call__(self, nodes: Array, senders: Array, receivers: Array) -> Array:
        count = len(nodes)
        for _ in range(2):
            x = nn.DenseGeneral((self.heads, self.size), use_bias=False)(nodes)
            score = [nn.DenseGeneral(1, -1, use_bias=False)(x)[..., 0] for _ in range(2)]
            logits = nn.leaky_relu(score[0][senders] + score[1][receivers], 0.2)
            most = jax.ops.segment_max(logits, receivers, count)[receivers]
            weight = jnp.exp(logits - jax.lax.stop_gradient(most))
            total = jax.ops.segment_sum(weight, receivers, count)[receivers]
            sent = x[senders] * (weight / (total + 1e-9))[..., None]
            nodes = nn.elu(jax.ops.segment_sum(sent, receivers, count).reshape(count, -1))
        return nn.Dense(4)(nodes)


class Sets(nn.Module):
    """Deep sets: every element through one network, the largest through another."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return MLP((32, 5))(MLP((32, 24))(x).max(1))


class Operator(nn.Module):
    """DeepONet: a function's values and a place through two networks, multiplied."""

    @nn.compact
    def __call__(self, function: Array, places: Array) -> Array:
        branch = MLP((32, 32, 16), activation="gelu")(function)
        trunk = jnp.tanh(MLP((32, 32, 16), activation="tanh")(places))
        return branch @ trunk.T


def ensemble(params: dict, x: Array) -> Array:
    """Members of one shape, their kernels stacked, under `vmap`; their mean."""

    def member(p: dict, x: Array) -> Array:
        h = jax.nn.relu(x @ p["first"]["kernel"] + p["first"]["bias"])
        h = jax.nn.relu(h @ p["second"]["kernel"] + p["second"]["bias"])
        return h @ p["last"]["kernel"] + p["last"]["bias"]

    return jax.vmap(member, (0, None))(params, x).mean(0)


def graph(nodes: int = 6, edges: int = 10) -> tuple[Array, Array, Array]:
    """Features of nodes, and which node each edge leaves and reaches."""
    senders, receivers = (tokens(edges, vocabulary=nodes, seed=k) for k in (3, 4))
    return normal(nodes, 7), senders, receivers


models(
    mlp=lambda: linen(MLP((64, 48, 32, 10)), normal(4, 20)),
    mlp_layernorm=lambda: linen(MLP((48, 48, 1), norm=True, activation="silu"), normal(4, 20)),
    dlrm=lambda: linen(Recommender(), normal(4, 13), tokens(4, 5, vocabulary=40)),
    dlrm_residual=lambda: linen(
        Recommender(residual=True), normal(4, 13), tokens(4, 5, vocabulary=40)
    ),
    ppo_atari=lambda: linen(Atari(), 255 * abs(normal(2, 32, 32, 4))),
    ppo_continuous=lambda: linen(Actor(), normal(4, 11)),
    dqn_dueling=lambda: linen(Dueling(), normal(4, 8)),
    gcn=lambda: linen(Convolved(), *graph()),
    graph_attention=lambda: linen(Attended(), *graph()),
    deep_sets=lambda: linen(Sets(), normal(4, 6, 3)),
    deeponet=lambda: linen(Operator(), normal(4, 20), normal(7, 2)),
    graph_network=lambda: linen(Messages(), normal(6, 7), normal(10, 5), *graph()[1:]),
    mlp_ensemble=lambda: (
        ensemble,
        layered(4, first=(12, 32, 32), second=(32, 24, 24), last=(24, 3, 3)),
        (normal(5, 12),),
    ),
)
