"""Penalties against their definitions, and that descending them does what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linjax import penalties

seeds = st.integers(0, 2**32 - 1)


def test_l1_sums_kernels_only():
    params = {"a": {"kernel": -jnp.ones((2, 3)), "bias": jnp.full(3, 7.0)}, "scale": jnp.ones(())}
    assert float(penalties.l1(params)) == 6.0
    assert float(penalties.l1({"bias": jnp.ones(3)})) == 0.0


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_interval_bounds_enclose_samples_and_are_attained(seed):
    rng = np.random.default_rng(seed)
    kernel, bias = rng.normal(size=(5, 4)), rng.normal(size=4)
    lower = rng.normal(size=5)
    upper = lower + rng.uniform(size=5)
    low, high = penalties.interval_bounds(kernel, bias, lower, upper)
    corners = np.where(kernel > 0, upper[:, None], lower[:, None])
    np.testing.assert_allclose(high, (corners * kernel).sum(0) + bias, rtol=1e-4, atol=1e-4)
    z = rng.uniform(lower, upper, (100, 5)) @ kernel + bias
    assert (z >= np.asarray(low) - 1e-4).all()
    assert (z <= np.asarray(high) + 1e-4).all()


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_stability_prefers_one_sign(seed):
    low, width = np.random.default_rng(seed).uniform(0.1, 3.0, (2, 6))
    apart = penalties.stability(low, low + width)
    across = penalties.stability(-low, width)
    assert -1 <= float(apart) < float(across) <= 1


@pytest.mark.parametrize("shape", [(64, 5), (4, 16, 5)])
def test_polarised_descends_to_rates_of_zero_or_one(shape):
    z = jax.random.normal(jax.random.key(0), shape)
    bias = jnp.linspace(-1.0, 1.1, 5)
    step = jax.jit(jax.grad(lambda b: penalties.polarised(z + b, 0.5)))
    for _ in range(300):
        bias = bias - 5.0 * step(bias)
    rate = jnp.mean(z + bias > 0, axis=tuple(range(len(shape) - 1)))
    assert bool(jnp.all((rate < 0.02) | (rate > 0.98)))
    assert float(penalties.polarised(z, 0.5)) <= 1.0
