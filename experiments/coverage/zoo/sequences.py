"""Recurrent, state space and dilated networks in Flax Linen."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.coverage.zoo.attention import RMSNorm
from experiments.coverage.zoo.registry import linen, models, normal, tokens

Array = jax.Array


class Texts(nn.Module):
    """Words through recurrent cells, the mean attended to, a classifier."""

    cell: Callable[[int], nn.RNNCellBase] = nn.OptimizedLSTMCell
    both: bool = False

    @nn.compact
    def __call__(self, words: Array) -> Array:
        x: Any = nn.Embed(64, 24)(words)
        if self.both:
            x = nn.Bidirectional(nn.RNN(self.cell(24)), nn.RNN(self.cell(24)))(x)
        else:
            x = nn.RNN(self.cell(32))(x)
        weights = nn.softmax(nn.Dense(1, use_bias=False)(nn.tanh(nn.Dense(16)(x))), -2)
        x = jnp.sum(x * weights, -2)
        return nn.Dense(3)(nn.relu(nn.Dense(32)(x)))


class Reader(nn.Module):
    """Sequence to sequence: the last state of one LSTM starts another."""

    @nn.compact
    def __call__(self, source: Array, target: Array) -> Array:
        cell = nn.LSTMCell(32, name="encoder")
        state, _ = nn.RNN(cell, return_carry=True)(nn.Embed(64, 16)(source))
        x = nn.Embed(64, 16)(target)
        x = nn.RNN(nn.LSTMCell(32, name="decoder"))(x, initial_carry=state)
        return nn.Dense(64)(x)


class Selective(nn.Module):
    """The mixer of Mamba: a short convolution, a gate, a scan whose rates the input chooses."""

    inner: int = 48
    states: int = 8
    rank: int = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        m, n = self.inner, self.states
        x, gate = jnp.split(nn.Dense(2 * m, use_bias=False, name="in")(x), 2, -1)
        past = jnp.pad(x, ((0, 0), (3, 0), (0, 0)))
        x = nn.silu(nn.Conv(m, (4,), padding="VALID", feature_group_count=m)(past))
        y = nn.Dense(self.rank + 2 * n, use_bias=False, name="select")(x)
        rate, b, c = jnp.split(y, (self.rank, self.rank + n), -1)
        rate = nn.softplus(nn.Dense(m, name="rate")(rate))
        decay = -jnp.exp(self.param("log_decay", nn.initializers.normal(), (m, n)))
        skip = self.param("skip_scale", nn.initializers.ones, (m,))

        def step(state: Array, now: tuple) -> tuple[Array, Array]:
            x, rate, b, c = now
            state = state * jnp.exp(rate[..., None] * decay)
            state = state + (rate * x)[..., None] * b[:, None]
            return state, jnp.einsum("bmn,bn->bm", state, c)

        steps = jax.tree.map(lambda y: y.swapaxes(0, 1), (x, rate, b, c))
        _, y = jax.lax.scan(step, jnp.zeros((len(x), m, n)), steps)
        y = (y.swapaxes(0, 1) + x * skip) * nn.silu(gate)
        return nn.Dense(x.shape[-1] // 2, use_bias=False, name="out")(y)


class Mamba(nn.Module):
    """Words, two mixers beside a stream, a tied head."""

    @nn.compact
    def __call__(self, words: Array) -> Array:
        embed = nn.Embed(64, 24)
        x = embed(words)
        for _ in range(2):
            x = x + Selective()(RMSNorm()(x))
        return embed.attend(RMSNorm()(x))


class Diagonal(nn.Module):
    """A layer of S4D: each channel is convolved, by FFT, with a sum of complex exponentials."""

    states: int = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        length, width = x.shape[-2:]
        make = nn.initializers.normal()
        parts = {
            name: self.param(name, make, (width, self.states))
            for name in ("log_decay", "frequency", "real", "imaginary")
        }
        rate = jnp.exp(self.param("log_rate", make, (width, 1)) - 2)
        pole = jax.lax.complex(-jnp.exp(parts["log_decay"]), 3 * parts["frequency"])
        weight = jax.lax.complex(parts["real"], parts["imaginary"])
        powers = jnp.exp((rate * pole)[..., None] * np.arange(length))
        kernel = 2 * jnp.real(jnp.einsum("mn,mnl->lm", weight, powers))
        spectrum = jnp.fft.rfft(x, 2 * length, -2) * jnp.fft.rfft(kernel, 2 * length, 0)
        y = jnp.fft.irfft(spectrum, 2 * length, -2)[..., :length, :]
        y = nn.gelu(y + x * self.param("skip_scale", nn.initializers.ones, (width,)))
        gate, y = jnp.split(nn.Dense(2 * width)(y), 2, -1)
        return nn.sigmoid(gate) * y


class S4D(nn.Module):
    """Two diagonal state space layers beside a stream, its mean classified."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(24)(x)
        for _ in range(2):
            x = nn.LayerNorm()(x + Diagonal()(x))
        return nn.Dense(5)(x.mean(-2))


class WaveNet(nn.Module):
    """Dilated causal convolutions, tanh times sigmoid, a stream and a sum of skips."""

    width: int = 16
    skip: int = 24

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.Dense(self.width)(x)
        total = jnp.zeros(())
        for k in range(3):
            conv = nn.Conv(2 * self.width, (2,), kernel_dilation=2**k, padding="CAUSAL")
            a, b = jnp.split(conv(x), 2, -1)
            h = nn.tanh(a) * nn.sigmoid(b)
            total += nn.Dense(self.skip)(h)
            x = x + nn.Dense(self.width)(h)
        return nn.Dense(16)(nn.relu(nn.Dense(self.skip)(nn.relu(total))))


class Temporal(nn.Module):
    """A temporal convolutional network: residual blocks of dilated convolutions."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for k, width in enumerate((16, 24)):
            y = x
            for _ in range(2):
                conv = nn.Conv(width, (3,), kernel_dilation=2**k, padding="CAUSAL")
                y = nn.relu(conv(y))
            x = nn.relu(y + nn.Dense(width)(x))
        return nn.Dense(4)(x[:, -1])


class Linear(nn.Module):
    """Linear attention with a state that is carried by a scan, as in RWKV and RetNet."""

    heads: int = 4
    size: int = 8

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.heads, self.size)
        q, k, v, g = (nn.DenseGeneral(shape, use_bias=False)(x) for _ in range(4))
        decay = nn.sigmoid(self.param("decay", nn.initializers.normal(), (self.heads,)))

        def step(state: Array, now: tuple) -> tuple[Array, Array]:
            q, k, v = now
            state = decay[:, None, None] * state + k[..., :, None] * v[..., None, :]
            return state, jnp.einsum("bhd,bhde->bhe", q, state)

        start = jnp.zeros((len(x), self.heads, self.size, self.size))
        steps = jax.tree.map(lambda y: y.swapaxes(0, 1), (q, k, v))
        _, y = jax.lax.scan(step, start, steps)
        y = nn.silu(g) * y.swapaxes(0, 1)
        return nn.DenseGeneral(x.shape[-1], (-2, -1), use_bias=False)(y)


class Retentive(nn.Module):
    """Words, linear attention and dense layers beside a stream."""

    @nn.compact
    def __call__(self, words: Array) -> Array:
        x = nn.Embed(64, 32)(words)
        for _ in range(2):
            x = x + Linear()(nn.LayerNorm()(x))
            # RWKV's channel mixing squares what its activation lets through.
            h = jnp.square(nn.relu(nn.Dense(64)(nn.LayerNorm()(x))))
            x = x + nn.Dense(32)(h)
        return nn.Dense(64)(nn.LayerNorm()(x))


models(
    lstm_text=lambda: linen(Texts(), tokens(2, 8)),
    gru_text_bidirectional=lambda: linen(Texts(nn.GRUCell, both=True), tokens(2, 8)),
    lstm_seq2seq=lambda: linen(Reader(), tokens(2, 8), tokens(2, 6, seed=2)),
    mamba=lambda: linen(Mamba(), tokens(2, 8)),
    s4d=lambda: linen(S4D(), normal(2, 16, 3)),
    wavenet=lambda: linen(WaveNet(), normal(2, 16, 4)),
    tcn=lambda: linen(Temporal(), normal(2, 16, 4)),
    linear_attention=lambda: linen(Retentive(), tokens(2, 8)),
)
