"""Diffusers' Flax classes (up to 0.35), from configurations, with random weights."""

import jax
import jax.numpy as jnp

from experiments.coverage.zoo.registry import Built, filled, model, normal


@model("diffusers_unet", "diffusers")
def unet() -> Built:
    from diffusers import FlaxUNet2DConditionModel

    net = FlaxUNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=16,
    )
    shapes = jax.eval_shape(net.init_weights, jax.random.key(0))

    def apply(params: dict, x: jax.Array, time: jax.Array, text: jax.Array) -> jax.Array:
        return net.apply({"params": params}, x, time, text).sample

    inputs = normal(1, 4, 8, 8), jnp.asarray([7.0]), normal(1, 5, 16, seed=2)
    return apply, filled(dict(shapes)), inputs


@model("diffusers_vae", "diffusers")
def vae() -> Built:
    from diffusers import FlaxAutoencoderKL

    net = FlaxAutoencoderKL(
        sample_size=16,
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
    )
    shapes = jax.eval_shape(net.init_weights, jax.random.key(0))

    def apply(params: dict, x: jax.Array) -> jax.Array:
        return net.apply({"params": params}, x).sample

    return apply, filled(dict(shapes)), (normal(1, 3, 16, 16),)
