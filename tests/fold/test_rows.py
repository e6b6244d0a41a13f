"""Calibration rows in chunks."""

import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.fold.rows import CHUNK, cut, divided, even, load, size_of

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


def narrow():
    return linjax.trace(
        lambda p, x: jnp.maximum(x @ p["in"], 0) @ p["out"], PARAMS, jnp.ones((1, 2))
    )


def numbered(count):
    return np.stack([np.arange(count, dtype=np.float32)] * 2, axis=1)


@pytest.mark.parametrize("limit", [50, 200, 1000])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_rows_that_are_left_away_are_spread_over_all_batches(limit, size):
    x = numbered(700)
    rows = load(narrow(), [x[i : i + size] for i in range(0, 700, size)], limit)[0][:, 0]
    assert min(limit, 700) <= len(rows) < limit + size or len(rows) == 700
    assert len(set(rows)) == len(rows)
    parts, _ = np.histogram(rows, bins=7, range=(0, 700))
    assert parts.max() - parts.min() <= 2 * size


@pytest.mark.parametrize("period", [2, 5, 10])
def test_rows_held_out_are_of_all_kinds(period):
    train, held = divided(load(narrow(), [numbered(1000)]))
    assert size_of(held) == 200 and size_of(train) == 800
    for rows in (train[0], held[0]):
        shares = np.bincount(rows[:, 0].astype(int) % period, minlength=period) / len(rows)
        assert np.abs(shares * period - 1).max() < 4 * np.sqrt(period / len(rows))


@pytest.mark.parametrize("folds", [2, 3])
@pytest.mark.parametrize("size", [1, 6, 7, 100])
@pytest.mark.filterwarnings("ignore::linjax.errors.FoldWarning")
def test_rows_outside_of_the_first_fold_are_those_of_the_others(folds, size):
    x = numbered(100) - 30
    batches = [x[i : i + size] for i in range(0, 100, size)]
    stats = linjax.collect(narrow(), PARAMS, batches, folds=folds)
    others = load(narrow(), batches, folds=folds)[0]
    own = stats.kernels[0]
    assert len(others) == own.count[1:].sum()
    mean = np.average(own.mean[1:, 0], axis=0, weights=own.count[1:])
    np.testing.assert_allclose(others.mean(0), mean, rtol=1e-5)


def test_networks_whose_rows_see_each_other_keep_their_order():
    net = linjax.trace(
        lambda p, x: jnp.maximum(jnp.cumsum(x, 0) @ p["in"], 0) @ p["out"], PARAMS, jnp.ones((4, 2))
    )
    np.testing.assert_array_equal(load(net, [numbered(20)])[0], numbered(20))
