"""Outputs that depend on units by which they have no derivative: roundings, steps, stops."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import apart, placed

relu = jax.nn.relu
RNG = np.random.default_rng(0)
SHAPES = {"a": (6, 24), "shift": (24,), "c": (24, 24), "e": (24, 3)}
PARAMS = {n: jnp.asarray(RNG.normal(size=s) / s[0] ** 0.5, jnp.float32) for n, s in SHAPES.items()}
X = placed(RNG.normal(size=(512, 6)))


@jax.custom_vjp
def opaque(z):
    return relu(z)


opaque.defvjp(lambda z: (relu(z), None), lambda _, g: (jnp.zeros_like(g),))

BLOCKED = {
    "rounded": lambda z: jnp.round(relu(z) * 4) / 4,
    "rounded down": lambda z: jnp.floor(4 * relu(z)),
    "whole numbers": lambda z: (8 * relu(z)).astype(jnp.int8).astype(z.dtype),
    "signs": jnp.sign,
    "steps": lambda z: (z > 0).astype(z.dtype),
    "chosen by comparison": lambda z: jnp.where(z > 0, 1.0, -0.5),
    "a derivative of zero": opaque,
}


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", BLOCKED)
def test_what_has_no_derivative_is_not_folded_as_if_it_cost_nothing(name):
    """Predicted was 0, and one unit kept, for errors of 0.8 to 0.95."""

    def apply(p, x):
        return relu(BLOCKED[name](relu(x @ p["a"] + p["shift"]) @ p["c"]) @ p["e"])

    net = linjax.trace(apply, PARAMS, X[:1])
    with pytest.warns(linjax.FoldWarning, match=r"depend on a.* no derivative"):
        stats = linjax.collect(net, PARAMS, [X[:256], X[256:]], metric="identity")
    for share in (0.8, 0.4):
        small, report = linjax.fold_and_report(PARAMS, stats, linjax.size(share))
        found = apart(apply(PARAMS, X), jax.jit(net.apply)(small, X))
        assert found <= 4 * report.predicted + 0.01


STOPPED = {
    "all": lambda p, h, stop: stop(h) @ p["c"] @ p["e"],
    "a branch": lambda p, h, stop: (
        jnp.tanh(h[:, :12] @ p["c"][:12]) @ p["e"] + 2 * stop(h @ p["e"])
    ),
    "straight through": lambda p, h, stop: (h + stop(jnp.tanh(h @ p["c"]) - h)) @ p["e"],
    "a kernel": lambda p, h, stop: relu(h @ stop(p["c"])) @ p["e"],
}


@pytest.mark.parametrize("name", STOPPED)
def test_stopped_gradients_hide_nothing(name):
    """Folds are as they are without the stops, and say as much."""
    found = []
    for stop in (jax.lax.stop_gradient, lambda h: h):

        def apply(p, x, stop=stop):
            return STOPPED[name](p, relu(x @ p["a"] + p["shift"]), stop)

        net = linjax.trace(apply, PARAMS, X[:1])
        with warnings.catch_warnings():
            warnings.simplefilter("error", linjax.FoldWarning)
            stats = linjax.collect(net, PARAMS, [X[:256]], metric="identity")
        small, report = linjax.fold_and_report(PARAMS, stats, linjax.size(0.8))
        measured = apart(apply(PARAMS, X), jax.jit(net.apply)(small, X))
        assert measured <= 2 * report.predicted + 0.01
        found.append((report.predicted, measured))
    np.testing.assert_allclose(*found, rtol=0.05, atol=1e-3)
    stopped = jax.grad(lambda x: jnp.sum(jax.lax.stop_gradient(x) * x))(X)
    np.testing.assert_array_equal(stopped, X)  # training's own stops are what they were


def test_what_contributes_nothing_still_goes_without_a_word():
    params = PARAMS | {"zero": jnp.zeros((24, 3))}

    def apply(p, x):
        h = relu(x @ p["a"] + p["shift"])
        return h @ p["e"] + jnp.round(relu(h @ p["c"])) @ p["zero"]

    net = linjax.trace(apply, params, X[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", linjax.FoldWarning)
        stats = linjax.collect(net, params, [X], metric="identity")
    small = linjax.fold(params, stats, linjax.tolerance(1e-4))
    assert linjax.count(small) <= 6 * 24 + 24 + 2 * 24 * 3 + 2 * (24 + 3)
    assert apart(jax.jit(apply)(params, X), jax.jit(net.apply)(small, X)) < 1e-3


def test_rows_that_weigh_nothing_are_not_measured():
    """The same evidence with and without them, though the outputs there are others."""

    def apply(p, x):
        return jnp.sign(relu(x @ p["a"] + p["shift"]) @ p["c"]) @ p["e"]

    net = linjax.trace(apply, PARAMS, X[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        alone = linjax.collect(net, PARAMS, [X], metric="identity")
        mask = jnp.arange(1024) % 2 == 0
        spread = jnp.zeros((1024, 6)).at[::2].set(X).at[1::2].set(9 * X)
        weighed = linjax.collect(
            net, PARAMS, [spread], metric="identity", weights=[mask.astype(jnp.float32)]
        )
    for own, other in zip(alone.points, weighed.points, strict=True):
        assert np.trace(own[0].metric[0]) > 0
        ratio = np.trace(other[0].metric[0]) / np.trace(own[0].metric[0])
        assert 0.7 < ratio < 1.4


def test_batches_that_are_normalised_have_derivatives():
    """Every row's output has every row's units: derivatives of their sum would be zero."""

    def apply(p, x):
        h = relu(x @ p["a"] + p["shift"])
        return relu((h - h.mean(0)) / (1e-3 + h.std(0)) @ p["c"]) @ p["e"]

    def last(p, x):
        h = relu(x @ p["a"] + p["shift"]) @ p["c"]
        return (h - h.mean(0)) @ p["e"]

    for function in (apply, last):
        net = linjax.trace(function, PARAMS, X)
        stats = linjax.collect(net, PARAMS, [X], metric="identity")
        small, report = linjax.fold_and_report(PARAMS, stats, linjax.size(0.5))
        found = apart(function(PARAMS, X), jax.jit(net.apply)(small, X))
        assert found <= 4 * report.predicted + 0.01
