"""Calibration rows in chunks."""

import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.fold.rows import CHUNK, cut, even, size_of

PARAMS = {"in": jnp.ones((2, 3)), "out": jnp.ones((3, 1))}


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 2])
def test_chunks_hold_all_rows_and_even_ones_are_of_one_size(count):
    net = linjax.trace(
        lambda p, x: jnp.maximum(x @ p["in"], 0) @ p["out"], PARAMS, jnp.ones((1, 2))
    )
    x = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    chunks = cut(net, (x,))
    np.testing.assert_array_equal(np.concatenate([part for (part,) in chunks]), x)
    assert max(map(size_of, chunks)) <= CHUNK
    trimmed = even(net, (x,))
    sizes = {size_of(chunk) for chunk in cut(net, trimmed)}
    assert len(sizes) == 1 and count - size_of(trimmed) < len(chunks)
