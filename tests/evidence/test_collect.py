"""Statistics against NumPy, over shards, devices, dtypes and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import linjax
from linjax.evidence.rows import turns
from tests.evidence.certainty import probabilities

RNG = np.random.default_rng(0)
PARAMS = {
    "a": {"kernel": RNG.normal(size=(3, 6)), "bias": RNG.normal(size=6)},
    "b": {"kernel": RNG.normal(size=(6, 5))},
    "c": {"kernel": RNG.normal(size=(5, 2)), "bias": RNG.normal(size=2)},
}
ROWS = RNG.normal(size=(48, 3)) + 3.0


def apply(p, x):
    h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"])
    h = jax.nn.gelu(h @ p["b"]["kernel"])
    return h @ p["c"]["kernel"] + p["c"]["bias"]


def cast(dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), PARAMS)


def network(dtype="float32"):
    params = cast(dtype)
    return linjax.trace(apply, params, jnp.zeros((1, 3), dtype)), params


def values():
    """Independent oracle: pre-activations and activations in NumPy, float64."""
    z1 = ROWS @ PARAMS["a"]["kernel"] + PARAMS["a"]["bias"]
    h1 = np.maximum(z1, 0)
    z2 = h1 @ PARAMS["b"]["kernel"]
    with jax.enable_x64(True):
        h2 = np.asarray(jax.nn.gelu(z2))
    return [(z1, h1), (z2, h2)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-11)])
def test_statistics_equal_their_definitions(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        net, params = network(dtype)
        x = jnp.asarray(ROWS, dtype)
        stats = linjax.collect(net, params, [x[:20], x[20:40], x[40:]], folds=2)
    for (z, h), u in zip(values(), stats.seen, strict=True):
        assert u.active.dtype == np.int64 and int(u.count) == 48
        np.testing.assert_array_equal(u.active, (z > 0).sum(0))
        np.testing.assert_allclose(u.mean_z, z.mean(0), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(u.mean_h, h.mean(0), rtol=tolerance, atol=tolerance)
        zc, hc = z - z.mean(0), h - h.mean(0)
        want = np.stack([(zc**2).sum(0), (hc**2).sum(0), (zc * hc).sum(0)])
        np.testing.assert_allclose(u.scatter, want, rtol=20 * tolerance, atol=20 * tolerance)
    (z1, h1), (z2, h2) = values()
    z1 = z1 - PARAMS["a"]["bias"]  # linear coordinates come as kernels make them
    seen = [[np.concatenate(own, axis=1)] for own in ((h1, z1), (h2, z2))]
    for wanted, found in zip((*seen, [ROWS, h1, h2]), (*stats.points, stats.kernels), strict=True):
        for a, own in zip(wanted, found, strict=True):
            check_moments(own, a, tolerance)


def check_moments(found, a, tolerance):
    """Moments of rows that arrived in batches of 20, dealt to two folds by turns."""
    turn = np.concatenate([turns(n, 2) for n in (20, 20, 8)])
    folds = [a[turn == f] for f in (0, 1)]
    np.testing.assert_array_equal(found.count, [24, 24])
    assert found.scatter.dtype == np.float64 and found.places == 1
    for f, part in enumerate(folds):
        np.testing.assert_allclose(found.mean[f, 0], part.mean(0), rtol=tolerance, atol=tolerance)
        centred = part - part.mean(0)
        np.testing.assert_allclose(
            found.scatter[f, 0], centred.T @ centred, rtol=50 * tolerance, atol=100 * tolerance
        )


def test_sensitivity_equals_the_jacobians():
    """Of errors of what kernels make, and of what is read at sites."""
    net, params = network()
    stats = linjax.collect(net, params, [jnp.asarray(ROWS, jnp.float32)])
    w3 = PARAMS["c"]["kernel"]
    _, (z2, h2) = values()
    logits = h2 @ w3 + PARAMS["c"]["bias"]
    p = probabilities(logits)
    metric = np.stack([np.diag(q) - np.outer(q, q) for q in p])
    _, second, third = stats.kernels
    np.testing.assert_allclose(third.metric[0], metric.mean(0), rtol=1e-4, atol=1e-7)
    slope = np.asarray(jax.vmap(jax.vmap(jax.grad(jax.nn.gelu)))(jnp.asarray(z2, jnp.float32)))
    jacobian = slope[:, :, None] * w3
    want = np.einsum("niq,nqr,njr->ij", jacobian, metric, jacobian) / len(p)
    np.testing.assert_allclose(second.metric[0], want, rtol=1e-3, atol=1e-5)
    (first,), (last,) = stats.points
    w2 = PARAMS["b"]["kernel"]
    np.testing.assert_allclose(first.metric[0], w2 @ want @ w2.T, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(last.metric[0], w3 @ metric.mean(0) @ w3.T, rtol=1e-4, atol=1e-6)
    centred = logits - logits.mean(0)
    variation = np.einsum("nq,qr,nr->", centred, metric.mean(0), centred) / len(p)
    np.testing.assert_allclose(stats.variation, variation, rtol=1e-4)


def test_merging_shards_equals_collecting_on_both():
    net, params = network()
    x = jnp.asarray(ROWS, jnp.float32)
    whole = linjax.collect(net, params, [x[:24], x[24:]])
    parts = [linjax.collect(net, params, [part]) for part in (x[:24], x[24:])]
    merged = linjax.merge(*parts)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(merged), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(whole.seen, merged.seen, strict=True):
        np.testing.assert_array_equal(a.active, b.active)


def test_eight_devices_count_like_one():
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, virtual ones will do; there are {jax.device_count()}")
    net, params = network()
    x = ROWS.astype(np.float32)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    one = linjax.collect(net, params, [x[:24], x[24:43], x[43:]])
    eight = linjax.collect(net, params, [x[:24], x[24:43], x[43:]], mesh=mesh)
    for a, b in zip(one.seen, eight.seen, strict=True):
        np.testing.assert_array_equal(a.active, b.active)
        np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_stats_are_a_pytree_and_say_what_they_hold():
    net, params = network()
    stats = linjax.collect(net, params, [ROWS.astype(np.float32)], second_moments=False)
    doubled = jax.tree.map(lambda leaf: leaf * 2, stats)
    assert doubled.graph == stats.graph and int(doubled.units["a"].count) == 96
    assert "without second moments" in repr(stats)


def test_bfloat16_is_summed_in_float32():
    net, params = network("bfloat16")
    stats = linjax.collect(net, params, [jnp.asarray(ROWS, jnp.bfloat16)] * 10)
    rates = stats.units["a"].rate
    np.testing.assert_allclose(rates, (values()[0][0] > 0).mean(0), atol=0.05)
    assert int(stats.units["a"].count) == 480


def test_scores_equal_a_regression():
    net, params = network()
    stats = linjax.collect(net, params, [ROWS.astype(np.float32)], second_moments=False)
    scores = linjax.score(params, stats)
    for name, (z, h) in zip("ab", values(), strict=True):
        for unit in range(z.shape[1]):
            slope, intercept = np.polyfit(z[:, unit], h[:, unit], 1)
            s = scores[name]
            left = h[:, unit] - slope * z[:, unit] - intercept
            np.testing.assert_allclose(s.slope[unit], slope, atol=1e-4)
            np.testing.assert_allclose(s.intercept[unit], intercept, atol=1e-3)
            spread = h[:, unit].var()
            unexplained = left.var() / spread if spread > 1e-9 else 0.0
            np.testing.assert_allclose(1 - s.r2[unit], unexplained, atol=1e-3)
            out = PARAMS["b" if name == "a" else "c"]["kernel"][unit]
            error = left.var() * (out**2).sum()
            np.testing.assert_allclose(s.error[unit], error, rtol=1e-2, atol=1e-5)
    assert "median R²" in repr(scores)


def bad(batches, params=None, **options):
    net, good = network()
    return lambda: linjax.collect(net, good if params is None else params, batches, **options)


GOOD = ROWS.astype(np.float32)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (bad([]), linjax.EvidenceError, "no batches"),
        (bad([GOOD[:0]]), linjax.EvidenceError, "batch 0: empty"),
        (bad([GOOD, GOOD[:, :2]]), linjax.StructureError, r"\(48, 2\).*traced with \(1, 3\)"),
        (bad([GOOD, GOOD * np.nan]), linjax.EvidenceError, "a: .* not finite .* by batch 1"),
        (bad([(GOOD, GOOD[:5])]), linjax.StructureError, r"shapes \(48, 3\), \(5, 3\) don't fit"),
        (bad([1.0]), linjax.StructureError, r"shapes \(\) don't fit .* traced with \(1, 3\)"),
        (bad([GOOD], metric="l2"), linjax.EvidenceError, "metric = 'l2'"),
        (bad([GOOD], folds=1), linjax.EvidenceError, "folds = 1"),
        (
            bad([GOOD], {"a": cast("float32")["a"]}),
            linjax.StructureError,
            r"c/.*: missing, expected shape \(2,\)",
        ),
        (
            bad([GOOD], jax.tree.map(lambda leaf: leaf.astype(int), PARAMS)),
            linjax.StructureError,
            "a/.*: dtype int",
        ),
        (
            bad([GOOD], cast("float32") | {"b": {"kernel": jnp.zeros((6, 4))}}),
            linjax.StructureError,
            "c/kernel, axis 0: 5 entries, expected 4",
        ),
        (
            bad([GOOD], cast("float32") | {"d": {"kernel": jnp.zeros((6, 4))}}),
            linjax.StructureError,
            "d/kernel: not a parameter of this network",
        ),
    ],
)
def test_bad_input_is_named_before_anything_happens(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_network_without_sites_says_why():
    params = {"k": jnp.zeros((3, 2))}
    net = linjax.trace(lambda p, x: x @ p["k"], params, GOOD)
    with pytest.raises(linjax.StructureError, match="no foldable site"):
        linjax.collect(net, params, [GOOD])
