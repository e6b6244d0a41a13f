"""Random signs are uncorrelated along every axis, between seeds, and with their neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linjax.evidence.signs import signs

SHAPES = [(200_000,), (400, 500), (8, 50, 500), (2, 4, 5, 5000), (50_000, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_even_and_uncorrelated(shape):
    found = np.asarray(signs((3, 1), shape, jnp.float32))
    assert set(np.unique(found)) == {-1.0, 1.0}
    assert abs(found.mean()) < 5 / found.size**0.5
    for axis in range(found.ndim):
        for far in (1, 2, 3, 4, 8, 16, 64):
            if far < found.shape[axis]:
                a, b = (np.moveaxis(found, axis, 0)[own] for own in (np.s_[far:], np.s_[:-far]))
                assert abs((a * b).mean()) < 5 / a.size**0.5, (axis, far)


def test_sums_over_many_have_the_identity_for_covariance():
    found = np.asarray(signs((0,), (20_000, 64), jnp.float32))
    apart = found.T @ found / len(found) - np.eye(64)
    assert np.abs(apart).max() < 5 / 20_000**0.5
    assert np.linalg.norm(apart, 2) < 3 * (64 / 20_000) ** 0.5  # as of independent signs


def test_seeds_have_nothing_to_do_with_each_other():
    numbers = [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (64, 0),
        (0,),
        (1,),
        (1 << 16, 3),
        (3, 1 << 16),
    ]
    found = np.stack([np.asarray(signs(own, (100, 300), jnp.float32)).ravel() for own in numbers])
    apart = found @ found.T / found.shape[1] - np.eye(len(numbers))
    assert np.abs(apart).max() < 5 / found.shape[1] ** 0.5


def test_what_an_entry_gets_depends_on_its_indices_alone():
    whole = np.asarray(signs((5,), (12, 7, 9), jnp.float32))
    np.testing.assert_array_equal(whole[:4, :3, :2], signs((5,), (4, 3, 2), jnp.float32))
    np.testing.assert_array_equal(whole, jax.jit(lambda n: signs((n,), whole.shape, "float32"))(5))
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))
    rows = jax.device_put(jnp.zeros((12, 7, 9)), NamedSharding(mesh, PartitionSpec("data")))
    spread = jax.jit(lambda x: x + signs((5,), x.shape, x.dtype))(rows)
    np.testing.assert_array_equal(whole, spread)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_any_dtype(dtype):
    found = signs((1,), (64,), dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(jnp.float32), signs((1,), (64,), jnp.float32))
