"""Networks whose output is as large as their input, and generative ones, in Flax Linen."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.coverage.zoo.registry import Built, filled, linen, model, models, normal

Array = jax.Array


class UNet(nn.Module):
    """Down by strides or pooling, up by transposed convolutions, skips concatenated."""

    widths: tuple[int, ...] = (12, 20, 28)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def pair(y: Array, width: int) -> Array:
            for _ in range(2):
                y = nn.relu(nn.Conv(width, (3, 3))(y))
            return y

        skips = []
        for width in self.widths[:-1]:
            x = pair(x, width)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = pair(x, self.widths[-1])
        for width, skip in zip(reversed(self.widths[:-1]), reversed(skips), strict=True):
            x = nn.ConvTranspose(width, (2, 2), (2, 2))(x)
            x = pair(jnp.concatenate([skip, x], -1), width)
        return nn.Conv(3, (1, 1))(x)


class DiffusionUNet(nn.Module):
    """Residual blocks with group norms that a time is added in, resized by nearest places."""

    @nn.compact
    def __call__(self, x: Array, time: Array) -> Array:
        rates = np.exp(-np.arange(8) / 2).astype(np.float32)
        angles = time[:, None] * rates
        c = nn.swish(nn.Dense(32)(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)))

        def block(y: Array, width: int) -> Array:
            z = nn.Conv(width, (3, 3))(nn.swish(nn.GroupNorm(4)(y)))
            z = z + nn.Dense(width)(c)[:, None, None]
            z = nn.Conv(width, (3, 3))(nn.swish(nn.GroupNorm(4)(z)))
            return z + (y if y.shape == z.shape else nn.Conv(width, (1, 1))(y))

        first = block(nn.Conv(16, (3, 3))(x), 16)
        low = block(nn.Conv(16, (3, 3), (2, 2))(first), 24)
        high = jax.image.resize(low, (*first.shape[:3], 24), "nearest")
        out = block(jnp.concatenate([first, nn.Conv(24, (3, 3))(high)], -1), 16)
        return nn.Conv(3, (3, 3))(nn.swish(nn.GroupNorm(4)(out)))


class VAE(nn.Module):
    """The mean and the spread of a code, and what is decoded from it; the noise is an input."""

    @nn.compact
    def __call__(self, x: Array, noise: Array) -> tuple[Array, Array, Array]:
        h = nn.relu(nn.Dense(64, name="encoder")(x))
        mean, spread = nn.Dense(8, name="mean")(h), nn.Dense(8, name="spread")(h)
        z = mean + jnp.exp(0.5 * spread) * noise
        h = nn.relu(nn.Dense(64, name="decoder")(z))
        return nn.Dense(x.shape[-1], name="logits")(h), mean, spread


class VQVAE(nn.Module):
    """Convolutions to codes that are replaced by the nearest of a table, and back."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def residual(y: Array) -> Array:
            z = nn.Conv(8, (3, 3))(nn.relu(y))
            return y + nn.Conv(y.shape[-1], (1, 1))(nn.relu(z))

        h = nn.relu(nn.Conv(16, (4, 4), (2, 2))(x))
        h = residual(residual(nn.Conv(24, (3, 3))(h)))
        z = nn.Conv(8, (1, 1))(nn.relu(h))
        table = self.param("table", nn.initializers.normal(), (32, 8))
        distance = jnp.sum(z**2, -1, keepdims=True) - 2 * z @ table.T + jnp.sum(table**2, -1)
        z = table[jnp.argmin(distance, -1)]
        h = residual(nn.Conv(24, (3, 3))(z))
        return nn.ConvTranspose(3, (4, 4), (2, 2))(nn.relu(h))


class Generator(nn.Module):
    """DCGAN: a code, a dense layer read as a picture, transposed convolutions, a tanh."""

    @nn.compact
    def __call__(self, z: Array) -> Array:
        h = nn.Dense(4 * 4 * 32)(z).reshape(len(z), 4, 4, 32)
        for width in (24, 16):
            h = nn.relu(nn.BatchNorm(use_running_average=True)(h))
            h = nn.ConvTranspose(width, (4, 4), (2, 2), use_bias=False)(h)
        h = nn.relu(nn.BatchNorm(use_running_average=True)(h))
        return nn.tanh(nn.Conv(3, (3, 3))(h))


class RealNVP(nn.Module):
    """Couplings: half of the numbers scale and shift the other half, by turns."""

    couplings: int = 4
    hidden: int = 32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        volume = jnp.zeros(x.shape[:-1])
        for _ in range(self.couplings):
            kept, moved = jnp.split(x, 2, -1)
            h = kept
            for _ in range(2):
                h = nn.relu(nn.Dense(self.hidden)(h))
            scale, shift = jnp.split(nn.Dense(2 * moved.shape[-1])(h), 2, -1)
            scale = jnp.tanh(scale)
            volume += scale.sum(-1)
            x = jnp.concatenate([moved * jnp.exp(scale) + shift, kept], -1)
        return x, volume


class Fourier(nn.Module):
    """A Fourier neural operator: kernels for low frequencies, a dense layer for places."""

    modes: int = 4
    width: int = 16

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x, m = nn.Dense(self.width)(x), self.modes
        for k in range(2):
            shape = (2, m, m, self.width, self.width)
            real, imaginary = self.param(f"spectral_{k}", nn.initializers.normal(), shape)
            kernel = jax.lax.complex(real, imaginary)
            spectrum = jnp.fft.rfft2(x, axes=(1, 2))
            low = jnp.einsum("bxyp,xypq->bxyq", spectrum[:, :m, :m], kernel)
            spectrum = jnp.zeros_like(spectrum).at[:, :m, :m].set(low)
            y = jnp.fft.irfft2(spectrum, x.shape[1:3], axes=(1, 2))
            x = nn.gelu(y + nn.Dense(self.width)(x))
        return nn.Dense(1)(nn.gelu(nn.Dense(32)(x)))


class NeRF(nn.Module):
    """Points and directions as sines; the points come in again half way."""

    depth: int = 6
    width: int = 32

    @nn.compact
    def __call__(self, points: Array, directions: Array) -> tuple[Array, Array]:
        def encode(x: Array, octaves: int) -> Array:
            y = x[..., None] * 2.0 ** np.arange(octaves)
            y = y.reshape(*x.shape[:-1], -1)
            return jnp.concatenate([x, jnp.sin(y), jnp.cos(y)], -1)

        start = x = encode(points, 4)
        for k in range(self.depth):
            x = nn.relu(nn.Dense(self.width)(x))
            if k == self.depth // 2:
                x = jnp.concatenate([x, start], -1)
        density = nn.relu(nn.Dense(1)(x))
        x = jnp.concatenate([nn.Dense(self.width)(x), encode(directions, 2)], -1)
        return nn.sigmoid(nn.Dense(3)(nn.relu(nn.Dense(16)(x)))), density


def masked_flow(params: dict, x: Array) -> tuple[Array, Array]:
    """A masked autoregressive flow: a number depends on those before it alone.

    Masks multiply the kernels, so a hidden unit sees as many numbers as its place says.
    """
    size = x.shape[-1]
    volume = jnp.zeros(x.shape[:-1])
    for layer in params.values():
        hidden = layer["first"]["kernel"].shape[1]
        degree, place = np.arange(hidden) % (size - 1), np.arange(size)
        seen = (place[:, None] <= degree).astype(np.float32)
        within = (degree[:, None] <= degree).astype(np.float32)
        shown = (degree[:, None] < place).astype(np.float32)
        h = jnp.tanh(x @ (layer["first"]["kernel"] * seen) + layer["first"]["bias"])
        h = jnp.tanh(h @ (layer["second"]["kernel"] * within) + layer["second"]["bias"])
        both = np.concatenate([shown, shown], -1)
        out = h @ (layer["last"]["kernel"] * both) + layer["last"]["bias"]
        shift, scale = jnp.split(out, 2, -1)
        x = ((x - shift) * jnp.exp(-scale))[..., ::-1]
        volume -= scale.sum(-1)
    return x, volume


@model("maf")
def maf() -> Built:
    def shape(*sizes: int) -> dict:
        kernel, bias = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (sizes, sizes[1:]))
        return {"kernel": kernel, "bias": bias}

    layer = {"first": shape(6, 32), "second": shape(32, 32), "last": shape(32, 12)}
    return masked_flow, filled({f"flow_{k}": layer for k in range(3)}), (normal(4, 6),)


models(
    unet=lambda: linen(UNet(), normal(2, 16, 16, 3)),
    diffusion_unet=lambda: linen(DiffusionUNet(), normal(2, 8, 8, 3), jnp.asarray([3.0, 70.0])),
    vae=lambda: linen(VAE(), normal(2, 48), normal(2, 8, seed=2)),
    vqvae=lambda: linen(VQVAE(), normal(2, 16, 16, 3)),
    dcgan_generator=lambda: linen(Generator(), normal(2, 12)),
    realnvp=lambda: linen(RealNVP(), normal(4, 8)),
    fno=lambda: linen(Fourier(), normal(2, 12, 12, 3)),
    nerf=lambda: linen(NeRF(), normal(4, 5, 3), normal(4, 5, 3, seed=2)),
)
