"""Random convolutional networks as bare functions, with units planted that must be found."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from tests.arrays import placed

EXTENT = {1: 12, 2: 8, 3: 5}
ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "leaky_relu": jax.nn.leaky_relu}


class Stage(NamedTuple):
    """A convolution and what follows it."""

    channels: int
    window: int
    stride: int
    dilation: int
    padding: str
    bias: bool
    norm: str  # "none", "before" the activation, "after" it
    activation: str
    depthwise: bool
    pool: str  # "none", "max", "mean", "same mean"


class Plan(NamedTuple):
    """A network: stages, a block behind them or none, and how it ends."""

    space: int
    inputs: int
    stages: tuple[Stage, ...]
    block: str  # "none", "residual", "fork" (read by two convolutions), or concatenated channels:
    # "dense" (an input with what is made of it), "growing" (that normalised, twice), "skip"
    # (an input with what is made of it at half the extent), "inception" (three branches);
    # "groups" (a convolution with groups between pointwise ones)
    end: str  # "flatten", "mean", "convolution"
    seed: int


BLOCKS = ("none", "residual", "fork", "dense", "growing", "skip", "inception", "groups")

stages = st.builds(
    Stage,
    channels=st.integers(3, 8),
    window=st.sampled_from((1, 1, 2, 3)),
    stride=st.sampled_from((1, 1, 2)),
    dilation=st.sampled_from((1, 1, 2)),
    padding=st.sampled_from(("SAME", "VALID", "explicit")),
    bias=st.booleans(),
    norm=st.sampled_from(("none", "none", "before", "after")),
    activation=st.sampled_from(tuple(ACTIVATIONS)),
    depthwise=st.booleans(),
    pool=st.sampled_from(("none", "none", "max", "mean", "same mean")),
)
plans = st.builds(
    Plan,
    space=st.sampled_from((1, 2, 2, 2, 3)),
    inputs=st.integers(1, 3),
    stages=st.lists(stages, min_size=1, max_size=3).map(tuple),
    block=st.sampled_from(BLOCKS),
    end=st.sampled_from(("flatten", "mean", "convolution")),
    seed=st.integers(0, 2**20),
)


def convolve(x, kernel, stage, groups=1, window=None):
    """A convolution over images with channels last."""
    space = x.ndim - 2
    letters = "DHW"[-space:]
    padding = stage.padding if window is None else "SAME"
    if padding == "explicit":
        padding = [(1, 2)] * space
    plain = window is not None
    return lax.conv_general_dilated(
        x, kernel, (1 if plain else stage.stride,) * space, padding,
        rhs_dilation=(1 if plain else stage.dilation,) * space,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def normalise(x, p):
    """Batch norm in inference."""
    factor = lax.rsqrt(p["var"] + 1e-5) * p["scale"]
    return (x - p["mean"]) * factor + p["shift"]


def pooled(x, kind):
    """Pooling by two, or none."""
    space = x.ndim - 2
    window = (1, *(2,) * space, 1)
    if kind == "none" or min(x.shape[1:-1]) < 2:
        return x
    if kind == "max":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
    padding = "SAME" if kind == "same mean" else "VALID"
    total = lax.reduce_window(x, 0.0, lax.add, window, window, padding)
    if kind == "mean":
        return total / 2**space
    ones = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
    return total / lax.reduce_window(ones, 0.0, lax.add, window, window, padding)


def apply_stage(p, x, stage):
    """One stage."""
    x = convolve(x, p["kernel"], stage)
    if stage.bias:
        x = x + p["bias"]
    if stage.norm == "before":
        x = normalise(x, p["norm"])
    x = ACTIVATIONS[stage.activation](x)
    if stage.norm == "after":
        x = normalise(x, p["norm"])
    if stage.depthwise:
        x = convolve(x, p["depthwise"], stage, x.shape[-1], 3)
    return pooled(x, stage.pool)


def build(plan: Plan, dtype=np.float32):
    """Returns ``apply``, parameters and an example batch size free."""
    rng = np.random.default_rng(plan.seed)

    def normal(*shape, scale=1.0):
        return placed(rng.normal(size=shape) * scale, dtype)

    def norm(n):
        return {
            "mean": normal(n, scale=0.3), "var": placed(rng.uniform(0.3, 2, n), dtype),
            "scale": placed(rng.uniform(0.5, 1.5, n) * rng.choice([-1, 1], n), dtype),
            "shift": normal(n, scale=0.3),
        }  # fmt: skip

    def kernel(window, p, q):
        fan = window**plan.space * p
        return normal(*(window,) * plan.space, p, q, scale=math.sqrt(2 / fan))

    params, width = {}, plan.inputs
    for i, stage in enumerate(plan.stages):
        n = stage.channels
        own = {"kernel": kernel(stage.window, width, n)}
        if stage.bias:
            own["bias"] = normal(n, scale=0.3)
        if stage.norm != "none":
            own["norm"] = norm(n)
        if stage.depthwise:
            own["depthwise"] = normal(*(3,) * plan.space, 1, n, scale=0.4)
        params[f"stage{i}"], width = own, n
    if plan.block != "none":
        inner, outer = width + 2, width if plan.block == "residual" else 3
        params["block"] = {
            "first": kernel(3, width, inner),
            "norm": norm(inner),
            "second": kernel(3, inner, outer),
        }
        if plan.block == "fork":
            params["block"] |= {"third": kernel(1, inner, 4), "fourth": kernel(3, 4, 2)}
        if plan.block == "growing":
            grown = {"norm": norm(width + 3), "third": kernel(2, width + 3, 4)}
            params["block"] |= {"grown": grown | {"last": norm(width + 7)}}
        if plan.block == "inception":
            params["block"] |= {"third": kernel(1, width, 2), "fourth": kernel(2, inner + 5, 3)}
        if plan.block == "groups":
            params["block"] = {
                "first": kernel(1, width, 12),
                "norm": norm(12),
                "second": kernel(3, 4, 9),
                "third": kernel(1, 9, 6),
                "fourth": kernel(2, 3, 4),
            }
        wide = {"residual": width, "growing": width + 7, "fork": 5, "groups": 4}
        wide["inception"] = 3 + inner + 5
        width = wide.get(plan.block, width + 3)
    x = placed(rng.normal(size=(6, *(EXTENT[plan.space],) * plan.space, plan.inputs)), dtype)

    def body(params, x):
        for i, stage in enumerate(plan.stages):
            x = apply_stage(params[f"stage{i}"], x, stage)
        if plan.block == "none":
            return x
        p = params["block"]
        if plan.block == "groups":
            inside = jax.nn.relu(normalise(convolve(x, p["first"], None, 1, 1), p["norm"]))
            inside = jax.nn.relu(convolve(inside, p["second"], None, 3, 3))
            inside = jax.nn.gelu(convolve(inside, p["third"], None, 1, 1))
            return convolve(inside, p["fourth"], None, 2, 2)
        coarse = pooled(x, "max") if plan.block == "skip" else x
        inside = jax.nn.relu(normalise(convolve(coarse, p["first"], None, 1, 3), p["norm"]))
        second = convolve(inside, p["second"], None, 1, 3)
        if plan.block == "residual":
            return jax.nn.relu(x + second)
        if plan.block == "dense":
            return jnp.concatenate([x, jax.nn.relu(second)], axis=-1)
        if plan.block == "skip":
            fine = jax.image.resize(second, (*x.shape[:-1], second.shape[-1]), "nearest")
            return jnp.concatenate([jax.nn.relu(fine), x], axis=-1)
        if plan.block == "growing":
            grown = jnp.concatenate([x, second], axis=-1)
            act = jax.nn.relu(normalise(grown, p["grown"]["norm"]))
            grown = jnp.concatenate(
                [grown, convolve(act, p["grown"]["third"], None, 1, 2)], axis=-1
            )
            return jax.nn.relu(normalise(grown, p["grown"]["last"]))
        if plan.block == "inception":
            third = convolve(x, p["third"], None, 1, 1)
            both = jax.nn.gelu(jnp.concatenate([inside, third, second], axis=-1))
            return jnp.concatenate([convolve(both, p["fourth"], None, 1, 2), both], axis=-1)
        third = jax.nn.relu(convolve(inside, p["third"], None, 1, 1))
        return jnp.concatenate([second, convolve(third, p["fourth"], None, 1, 3)], axis=-1)

    shape = jax.eval_shape(body, params, x).shape
    reads = math.prod(shape[1:]) if plan.end == "flatten" else shape[-1]
    ends = {"convolution": kernel(2, width, 3)}
    params["head"] = ends.get(plan.end, normal(reads, 3, scale=max(reads, 1) ** -0.5))

    def apply(params, x):
        x = body(params, x)
        if plan.end == "convolution":
            return convolve(x, params["head"], None, 1, 2)
        x = x.mean(tuple(range(1, x.ndim - 1))) if plan.end == "mean" else x.reshape(len(x), -1)
        return jnp.matmul(x, params["head"], precision=lax.Precision.HIGHEST)

    return apply, params, x
