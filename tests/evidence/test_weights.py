"""Weights and masks: what weighs nothing leaves no trace, wherever it stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import linjax
from linjax.evidence.rows import turns

RNG = np.random.default_rng(0)


def tokens(params, x):
    """Tokens that read one another through attention with a mask, then a feed-forward block."""
    x, mask = x
    scores = jnp.where(mask[:, None, :], x @ jnp.swapaxes(x, 1, 2), -1e9)
    x = x + jax.nn.softmax(scores) @ x
    h = jax.nn.gelu(x @ params["up"] + params["shift"])
    return x + h @ params["down"]


def padded(seed, rows, length):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, rows)
    mask = np.arange(length) < lengths[:, None]
    x = np.where(mask[..., None], rng.normal(size=(rows, length, 3)), 50.0)
    return jnp.asarray(x), jnp.asarray(mask)


PARAMS = {k: jnp.asarray(RNG.normal(size=s), jnp.float32)
          for k, s in (("up", (3, 7)), ("shift", (7,)), ("down", (7, 3)))}  # fmt: skip


def same(a, b, tolerance=1e-5):
    assert a.graph == b.graph
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        if np.issubdtype(x.dtype, np.integer):
            np.testing.assert_array_equal(x, y)
        else:
            scale = max(np.abs(y).max(initial=0.0), 1e-6)
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * scale)


def mlp(params, x):
    h = jax.nn.relu(x @ params["a"] + params["shift"])
    return jax.nn.relu(h @ params["b"]) @ params["c"]


MLP = {k: RNG.normal(size=s) for k, s in (("a", (3, 6)), ("shift", (6,)), ("b", (6, 5)),
                                          ("c", (5, 2)))}  # fmt: skip
ROWS = RNG.normal(size=(60, 3)) + 1.0


def with_rubbish(x, seed, value=np.nan):
    """Rows in random places between which others stand, and the mask of the former."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(len(x) + 9, bool)
    mask[np.sort(rng.permutation(len(mask))[: len(x)])] = True
    wide = np.full((len(mask), *x.shape[1:]), value)
    wide[mask] = x
    return wide, mask


@pytest.mark.quick(3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [bool, int, float])
def test_rows_of_weight_zero_leave_no_trace(dtype, kind):
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda w: jnp.asarray(w, dtype), MLP)
        net = linjax.trace(mlp, params, jnp.zeros((1, 3), dtype))
        parts = [ROWS[:25], ROWS[25:]]
        wide, masks = zip(*map(with_rubbish, parts, (0, 1)), strict=True)
        wide = [jnp.asarray(x, dtype) for x in wide]
        want = linjax.collect(net, params, [jnp.asarray(x, dtype) for x in parts], folds=3)
        have = linjax.collect(net, params, wide, folds=3, weights=[m.astype(kind) for m in masks])
        assert have.units["a"].count == 60
        same(have, want, 2e-5 if dtype == "float32" else 1e-11)


def test_whole_weights_are_repetitions_and_others_scale():
    with jax.enable_x64(True):
        net = linjax.trace(mlp, MLP, ROWS[:1])
        times = RNG.integers(0, 4, len(ROWS))
        want = linjax.collect(net, MLP, [np.repeat(ROWS, times, axis=0)], second_moments=False)
        have = linjax.collect(net, MLP, [ROWS], weights=[times], second_moments=False)
        same(have, want, 1e-11)
        half = linjax.collect(net, MLP, [ROWS], weights=lambda x: times / 2, second_moments=False)
        for u, v in zip(half.seen, have.seen, strict=True):
            np.testing.assert_allclose(u.scatter, v.scatter / 2, rtol=1e-9)
            np.testing.assert_allclose(u.mean_h, v.mean_h, rtol=1e-9)
            np.testing.assert_allclose(u.rate, v.rate, rtol=1e-9)
            assert np.isclose(u.count, times.sum() / 2)
        whole = linjax.collect(net, MLP, [ROWS], weights=lambda x: times)
        assert linjax.count(linjax.fold(MLP, whole, linjax.size(0.5))) <= 0.5 * 64


def test_masked_tokens_leave_no_trace():
    net = linjax.trace(lambda p, *x: tokens(p, x), PARAMS, *padded(0, 2, 5))
    x, mask = padded(1, 24, 5)
    stats = linjax.collect(net, PARAMS, [(x, mask)], weights=lambda x, mask: mask)
    longer = [jnp.pad(x, ((0, 0), (0, 3), (0, 0)), constant_values=7.0),
              jnp.pad(mask, ((0, 0), (0, 3)))]  # fmt: skip
    same(linjax.collect(net, PARAMS, [tuple(longer)], weights=lambda x, mask: mask), stats)
    v = np.asarray(x + jax.nn.softmax(jnp.where(mask[:, None, :], x @ jnp.swapaxes(x, 1, 2), -1e9))
                   @ x)[np.asarray(mask)]  # fmt: skip
    z = v @ np.asarray(PARAMS["up"]) + np.asarray(PARAMS["shift"])
    (units,) = stats.seen
    assert units.count == int(mask.sum())
    np.testing.assert_array_equal(units.active, (z > 0).sum(0))
    np.testing.assert_allclose(units.mean_z, z.mean(0), rtol=1e-4, atol=1e-4)


IMAGES = {k: jnp.asarray(RNG.normal(size=s), jnp.float32)
          for k, s in (("conv", (3, 3, 2, 4)), ("in", (4, 6)), ("out", (6, 3)))}  # fmt: skip


def pictures(params, x):
    h = jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "SAME",
                                     dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
    return jax.nn.relu(jax.nn.relu(h).mean((1, 2)) @ params["in"]) @ params["out"]


def same_points(a, b, tolerance=1e-4):
    for own, other in zip(jax.tree.leaves(a.points), jax.tree.leaves(b.points), strict=True):
        scale = max(np.abs(other).max(initial=0.0), 1e-6)
        np.testing.assert_allclose(own, other, rtol=tolerance, atol=tolerance * scale)
    np.testing.assert_allclose(a.variation, b.variation, rtol=tolerance)


def test_images_of_weight_zero_leave_no_trace():
    x = RNG.normal(size=(20, 5, 5, 2)).astype(np.float32)
    net = linjax.trace(pictures, IMAGES, x[:1])
    assert {site.name for site in net.network.foldable} == {"conv", "in"}
    spoilt = np.concatenate([x, np.full((6, 5, 5, 2), np.nan, np.float32)])
    have = linjax.collect(net, IMAGES, [spoilt], weights=[np.arange(26) < 20])
    same_points(have, linjax.collect(net, IMAGES, [x]), 1e-3)
    with pytest.raises(linjax.EvidenceError, match="samples"):
        linjax.collect(net, IMAGES, [x], weights=[np.ones((20, 3))])


def test_whole_weights_of_images_are_repetitions():
    x = RNG.normal(size=(16, 5, 5, 2)).astype(np.float32)
    net, times = linjax.trace(pictures, IMAGES, x[:1]), RNG.integers(0, 4, 8).repeat(2)
    have = linjax.collect(net, IMAGES, [x], weights=[times], metric="identity")
    turn = np.full(16, -1)
    turn[times > 0] = turns(np.sum(times > 0), 2)
    rows, other = np.empty((times.sum(), *x.shape[1:]), np.float32), turns(times.sum(), 2)
    for f in range(2):  # in the same folds
        rows[other == f] = np.repeat(x[turn == f], times[turn == f], axis=0)
    want = linjax.collect(net, IMAGES, [rows], metric="identity")
    for own, other in zip(have.points, want.points, strict=True):
        for a, b in zip(own, other, strict=True):
            np.testing.assert_allclose(a.count, b.count)
            np.testing.assert_allclose(a.mean, b.mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-3, atol=1e-3)


def attending(params, x):
    x, mask = x
    q, k, v = (x @ params[n] for n in "qkv")
    scores = jnp.where(mask[:, None, :], q @ jnp.swapaxes(k, 1, 2), -1e9)
    x = x + (jax.nn.softmax(scores) @ v) @ params["o"]
    return x + jax.nn.gelu(x @ params["up"]) @ params["down"]


def test_masked_tokens_of_attention_leave_no_trace():
    rng = np.random.default_rng(2)
    shapes = {"q": (3, 4), "k": (3, 4), "v": (3, 4), "o": (4, 3), "up": (3, 7), "down": (7, 3)}
    params = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    net = linjax.trace(lambda p, *x: attending(p, x), params, *padded(0, 2, 5))
    x, mask = padded(1, 24, 5)
    options = {"weights": lambda x, mask: mask, "metric": "identity"}
    stats = linjax.collect(net, params, [(x, mask)], **options)
    longer = (jnp.pad(x, ((0, 0), (0, 3), (0, 0)), constant_values=7.0),
              jnp.pad(mask, ((0, 0), (0, 3))))  # fmt: skip
    other = linjax.collect(net, params, [longer], **options)
    for own, again in zip(stats.points, other.points, strict=True):
        for a, b in zip(own, again, strict=True):
            assert a.count.sum() == mask.sum()
            np.testing.assert_allclose(a.count, b.count)
            np.testing.assert_allclose(a.mean, b.mean, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-3, atol=1e-3)


def test_images_sharded_and_merged():
    x = RNG.normal(size=(64, 5, 5, 2)).astype(np.float32)
    net = linjax.trace(pictures, IMAGES, x[:1])
    parts = [x[:32], x[32:]]
    whole = linjax.collect(net, IMAGES, parts, metric="identity")
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    same_points(linjax.collect(net, IMAGES, parts, metric="identity", mesh=mesh), whole)
    merged = linjax.merge(*(linjax.collect(net, IMAGES, [p], metric="identity") for p in parts))
    for a, b in zip(merged.seen, whole.seen, strict=True):
        np.testing.assert_array_equal(a.active, b.active)
    for own, other in zip(merged.points, whole.points, strict=True):
        for a, b in zip(own, other, strict=True):
            np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-4)
    assert linjax.count(linjax.fold(IMAGES, merged, linjax.size(0.6))) <= 0.6 * 114


def test_sharded_and_merged():
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), MLP)
    net = linjax.trace(mlp, params, jnp.zeros((1, 3)))
    x, times = ROWS[:56].astype(np.float32), RNG.integers(0, 3, 56)
    whole = linjax.collect(net, params, [x[:32], x[32:]], weights=[times[:32], times[32:]])
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    spread = linjax.collect(net, params, [x[:32], x[32:]], weights=[times[:32], times[32:]],
                            mesh=mesh)  # fmt: skip
    same(spread, whole)
    halves = [linjax.collect(net, params, [x[s]], weights=[times[s]])
              for s in (slice(0, 32), slice(32, 56))]  # fmt: skip
    merged = linjax.merge(*halves)
    assert merged.units["a"].count == times.sum()
    for a, b in zip(merged.seen, whole.seen, strict=True):
        np.testing.assert_array_equal(a.active, b.active)
        np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-4)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([np.ones(7)], "expected 10 rows"),
        ([-np.ones(10)], "at least 0"),
        ([np.full(10, np.nan)], "finite"),
        ([], "no weights are left"),
    ],
)
def test_bad_weights(weights, message):
    net = linjax.trace(mlp, MLP, ROWS[:1])
    with pytest.raises(linjax.EvidenceError, match=message):
        linjax.collect(net, MLP, [ROWS[:10]], weights=weights)
