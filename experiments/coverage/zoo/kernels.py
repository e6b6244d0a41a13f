"""Networks whose kernels are unusual: factored, of splines, made by others, of more places."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.coverage.zoo.registry import layered, linen, models, normal

Array = jax.Array


class Adapted(nn.Module):
    """Dense layers with a low-rank product beside each kernel (LoRA)."""

    rank: int = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in (48, 40):
            low = nn.Dense(self.rank, use_bias=False)(x)
            x = nn.gelu(nn.Dense(width)(x) + 2.0 * nn.Dense(width, use_bias=False)(low))
        return nn.Dense(6)(x)


class Splines(nn.Module):
    """A Kolmogorov–Arnold network: every edge is a sum of bumps and a scaled SiLU."""

    bumps: int = 5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        centres = np.linspace(-2, 2, self.bumps, dtype=np.float32)
        for k, width in enumerate((16, 12, 3)):
            shape = (x.shape[-1], self.bumps, width)
            kernel = self.param(f"bumps_{k}", nn.initializers.normal(), shape)
            basis = jnp.exp(-jnp.square(x[..., None] - centres))
            y = jnp.einsum("...pb,pbq->...q", basis, kernel)
            x = y + nn.Dense(width, use_bias=False)(nn.silu(x))
        return x


class Volumes(nn.Module):
    """Convolutions over three axes, as for scans of bodies."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in (8, 16):
            x = nn.relu(nn.Conv(width, (3, 3, 3))(x))
            x = nn.max_pool(x, (2, 2, 2), (2, 2, 2))
        return nn.Dense(4)(nn.relu(nn.Dense(20)(x.reshape(len(x), -1))))


class Highway(nn.Module):
    """Gates mix what a layer makes with what it reads."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(32)(x)
        for _ in range(3):
            gate = nn.sigmoid(nn.Dense(32)(x))
            x = gate * nn.relu(nn.Dense(32)(x)) + (1 - gate) * x
        return nn.Dense(5)(x)


class Modulated(nn.Module):
    """FiLM: a condition scales and shifts the channels of convolutions."""

    @nn.compact
    def __call__(self, x: Array, condition: Array) -> Array:
        c = nn.relu(nn.Dense(24)(condition))
        for width in (16, 24):
            scale, shift = jnp.split(nn.Dense(2 * width)(c)[:, None, None], 2, -1)
            x = nn.relu(nn.Conv(width, (3, 3))(x) * (1 + scale) + shift)
        return nn.Dense(4)(x.mean((1, 2)))


class Maxout(nn.Module):
    """The largest of several affine maps."""

    pieces: int = 3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in (32, 24):
            x = nn.DenseGeneral((width, self.pieces))(x).max(-1)
        return nn.Dense(5)(x)


class Attentive(nn.Module):
    """CBAM: channels are gated by pooled values, places by a convolution over pooled channels."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(nn.Conv(24, (3, 3))(x))
        first, second = nn.Dense(8), nn.Dense(24)
        pooled = x.mean((1, 2)), x.max((1, 2))
        gates = sum(second(nn.relu(first(p))) for p in pooled)
        x = x * nn.sigmoid(gates)[:, None, None]
        flat = jnp.stack([x.mean(-1), x.max(-1)], -1)
        x = x * nn.sigmoid(nn.Conv(1, (5, 5))(flat))
        return nn.Dense(10)(nn.relu(nn.Conv(16, (3, 3))(x)).mean((1, 2)))


def implicit(params: dict, x: Array) -> Array:
    """A deep equilibrium: the same layer a fixed number of times, by `fori_loop`."""

    def step(_: Any, z: Array) -> Array:
        return jnp.tanh(z @ params["inner"]["kernel"] + x @ params["outer"]["kernel"])

    z = jax.lax.fori_loop(0, 5, step, jnp.zeros((len(x), 24)))
    return z @ params["head"]["kernel"] + params["head"]["bias"]


def hyper(params: dict, x: Array, task: Array) -> Array:
    """A hypernetwork: a task's code is mapped to the kernel that treats the input."""
    h = jax.nn.relu(task @ params["first"]["kernel"] + params["first"]["bias"])
    made = (h @ params["second"]["kernel"]).reshape(x.shape[-1], 16)
    y = jax.nn.relu(x @ made + params["second"]["bias"])
    return y @ params["head"]["kernel"] + params["head"]["bias"]


models(
    lora_mlp=lambda: linen(Adapted(), normal(4, 20)),
    kan=lambda: linen(Splines(), normal(4, 8)),
    conv3d=lambda: linen(Volumes(), normal(2, 8, 8, 8, 2)),
    highway=lambda: linen(Highway(), normal(4, 20)),
    film=lambda: linen(Modulated(), normal(2, 8, 8, 3), normal(2, 6)),
    maxout=lambda: linen(Maxout(), normal(4, 20)),
    cbam=lambda: linen(Attentive(), normal(2, 8, 8, 3)),
    deep_equilibrium=lambda: (
        implicit,
        layered(inner=(24, 24), outer=(10, 24), head=(24, 4, 4)),
        (normal(3, 10),),
    ),
    hypernetwork=lambda: (
        hyper,
        layered(first=(6, 32, 32), second=(32, 160, 16), head=(16, 4, 4)),
        (normal(3, 10), normal(6)),
    ),
)
