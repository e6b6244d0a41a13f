"""Kernels that the function computes of its parameters alone fold by their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

RNG = np.random.default_rng(0)


def normal(*shape):
    return placed(RNG.normal(size=shape) * 0.5)


X = normal(300, 8)
P = {"w": normal(8, 48), "v": normal(48, 4), "b": normal(48)}
LOW = {**P, "B": normal(8, 2), "A": normal(2, 48)}


def standard(w):
    return (w - w.mean(0)) * jax.lax.rsqrt(w.var(0) + 1e-5)


def by_scale(w):
    s = jnp.abs(w).max(0, keepdims=True) / 127
    return jnp.clip(jnp.round(w / s), -127, 127) * s


@jax.custom_vjp
def stepped(w):
    return jnp.round(w * 8) / 8


stepped.defvjp(lambda w: (stepped(w), None), lambda _, g: (g,))


def spectral(w, u):
    v = w.T @ u
    v = v / jnp.linalg.norm(v)
    return w / (u @ w @ v / jnp.linalg.norm(u))


WAYS = {
    "standardised": standard,
    "rounded by a scale": by_scale,
    "rounded, with a derivative of its own": stepped,
    "normed": lambda w: 8 * w / jnp.linalg.norm(w),
    "softmax": lambda w: jax.nn.softmax(w, axis=0),
    "added up": lambda w: jnp.cumsum(w, 0),
    "a branch": lambda w: jax.lax.cond(w.sum() > 0, lambda w: w, lambda w: -w, w),
    "a loop": lambda w: jax.lax.fori_loop(0, 3, lambda _, w: w / jnp.linalg.norm(w), w),
    "under remat": jax.checkpoint(standard),
}


def both(way):
    return lambda p, x: jax.nn.relu(x @ way(p["w"]) + p["b"]) @ way(p["v"])


def adapted(p, x):
    return jax.nn.relu(x @ (p["w"] + p["B"] @ p["A"]) + p["b"]) @ p["v"]


def scaled(p, x):
    return jax.nn.relu(x @ (p["w"] / jnp.linalg.norm(p["w"], axis=0)) + p["b"]) @ p["v"]


def with_spectral(p, x):
    return jax.nn.relu(x @ spectral(p["w"], p["u"]) + p["b"]) @ p["v"]


def with_bias(p, x):
    return jax.nn.relu(x @ p["w"] + p["b"] / jnp.linalg.norm(p["b"])) @ p["v"]


CASES = {name: (both(way), P) for name, way in WAYS.items()} | {
    "low ranks": (adapted, LOW),
    "of unit columns": (scaled, P),
    "spectral norm": (with_spectral, {**P, "u": normal(8)}),
    "a bias": (with_bias, P),
}


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want - np.mean(want, axis=0))


@pytest.mark.parametrize("case", CASES)
def test_both_forms_compute_the_function(case):
    apply, params = CASES[case]
    net = linjax.trace(apply, params, X[:1])
    want = apply(params, X)
    np.testing.assert_array_equal(net.apply(params, X), want)
    own = jax.jit(lambda p, x: net.run(p, x).outputs)
    np.testing.assert_allclose(own(params, X), want, rtol=1e-5, atol=1e-5)
    stats = linjax.collect(net, params, [X], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.7))
    assert linjax.count(small) <= 0.7 * linjax.count(params)
    assert any("_computed" in key for key in small)
    assert relative(jax.jit(net.apply)(small, X), want) <= 2 * report.predicted + 1e-3
    gradient = jax.jit(jax.grad(lambda p: net.apply(p, X).sum()))(small)
    assert jax.tree.structure(gradient) == jax.tree.structure(small)
    np.testing.assert_allclose(jax.jit(net.apply)(small, X), net.apply(small, X), atol=1e-4)


@pytest.mark.parametrize("case", ["standardised", "low ranks"])
def test_what_follows_takes_both_forms(case, tmp_path):
    apply, params = CASES[case]
    net = linjax.trace(apply, params, X[:1])
    want = apply(params, X)
    small = linjax.compress(net, params, [X], linjax.size(0.6), metric="identity")
    again = linjax.fold(small, linjax.collect(net, small, [X], metric="identity"), linjax.size(0.8))
    assert linjax.count(again) < linjax.count(small) < linjax.count(params)
    assert relative(jax.jit(net.apply)(small, X), want) < 0.3
    for given in (params, small):
        path = tmp_path / "network"
        linjax.save(path, net, given)
        for function in (None, apply):
            stored, loaded = linjax.load(path, function)
            np.testing.assert_allclose(
                jax.jit(stored.apply)(loaded, X), jax.jit(net.apply)(given, X), rtol=1e-4, atol=1e-4
            )
    assert linjax.compare(net, params, small, [X]).after == linjax.count(small)
    mean = linjax.lump(net, params)
    np.testing.assert_allclose(jax.jit(net.apply)(mean, X), want, rtol=1e-3, atol=1e-3)


def test_bounds_are_of_the_computed_kernels():
    shifted = {**P, "b": P["b"] * 20}
    net = linjax.trace(both(standard), shifted, X[:1])
    bounds = linjax.certify(net, shifted, -1.0, 1.0)
    assert linjax.check_certificate(net, shifted, bounds)
    exact = linjax.fold(shifted, bounds)
    assert linjax.count(exact) < linjax.count(shifted)
    x = jnp.clip(X, -1, 1)
    np.testing.assert_allclose(
        jax.jit(net.apply)(exact, x), both(standard)(shifted, x), rtol=1e-4, atol=1e-3
    )


def test_half_precision_and_mixed_forms():
    net = linjax.trace(both(standard), P, X[:1])
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), P)
    want = both(standard)(P, X)
    got = net.run(half, X.astype(jnp.bfloat16)).outputs
    assert relative(np.asarray(got, np.float32), want) < 0.05
    for mixed in ({**P, "w_computed": P["w"]}, {"w_computed": P["w"], "v": P["v"], "b": P["b"]}):
        with pytest.raises(linjax.StructureError, match="unexpected beside w_computed"):
            net.apply(mixed, X)
    computed = {"w_computed": standard(P["w"]), "v_computed": standard(P["v"]), "b": P["b"]}
    np.testing.assert_allclose(jax.jit(net.apply)(computed, X), want, rtol=1e-5, atol=1e-5)
    del computed["v_computed"]
    with pytest.raises(linjax.StructureError, match="v_computed: missing"):
        net.apply(computed, X)


def test_what_would_grow_or_serves_elsewhere_is_left():
    def low(p, x):
        return jax.nn.relu(x @ (p["B"] @ p["A"])) @ p["v"]

    def tied(p, x):
        return jax.nn.relu(x @ standard(p["w"])) @ p["v"], p["w"]

    for apply in (low, tied):
        assert linjax.trace(apply, LOW, X[:1]).network.computed is None
    reasons = [r.reason for r in linjax.trace(tied, LOW, X[:1]).network.refusals]
    assert reasons

    def given(p, x):  # what the reason says to do
        return jax.nn.relu(x @ p["kernel"]) @ p["v"], p["w"]

    params = {**LOW, "kernel": standard(LOW["w"])}
    assert linjax.trace(given, params, X[:1]).network.sites


def test_other_lengths_keep_what_is_computed_by_position():
    def apply(p, x):
        at = jnp.sin(jnp.arange(x.shape[1])[:, None] * jnp.arange(1.0, 9.0))
        return jax.nn.relu((x + at @ p["at"]) @ p["w"] + p["b"]) @ p["v"]

    params, x = {**P, "at": normal(8, 8)}, normal(40, 5, 8)
    net = linjax.trace(apply, params, x[:1])
    assert net.network.computed is None
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.8))
    assert jax.jit(net.apply)(small, x[:, :3]).shape == (40, 3, 4)


def test_layers_are_named_after_the_leaves_that_kernels_are_computed_of():
    apply, params = CASES["standardised"]
    net = linjax.trace(apply, params, X[:1])
    assert [site.name for site in net.network.sites] == ["w"]
    assert [affine.name for affine in net.graph.affines] == ["w", "v"]
    assert {refusal.name for refusal in net.network.refusals} == {"v"}
    stats = linjax.collect(net, params, [X], metric="identity")
    assert list(linjax.fold_and_report(params, stats, linjax.size(0.7)).report.sites) == ["w"]


def test_where_one_leaf_makes_two_kernels_they_are_told_apart():
    def apply(p, x):
        return jax.nn.relu(jax.nn.relu(x @ standard(p["w"])) @ by_scale(p["w"])) @ p["v"]

    params = {"w": normal(8, 8), "v": normal(8, 4)}
    names = linjax.trace(apply, params, X[:1]).network.names
    assert len(set(names)) == len(names)
