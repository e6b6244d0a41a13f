"""Outputs whose derivatives tell a part: beside smooth ways there are steps."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence.steps import stepped
from tests.arrays import apart, placed

RNG = np.random.default_rng(0)
SHAPES = {"a": (8, 16), "b": (16, 16), "c": (16, 4), "d": (16, 4)}
PARAMS = {n: jnp.asarray(RNG.normal(size=s) / s[0] ** 0.5, jnp.float32) for n, s in SHAPES.items()}
X = placed(RNG.normal(size=(600, 8)))


@jax.custom_vjp
def quieter(z):
    return z


quieter.defvjp(lambda z: (z, None), lambda _, g: (0.01 * g,))


@jax.custom_vjp
def straight_through(z):
    return jnp.round(4 * z) / 4


straight_through.defvjp(lambda z: (straight_through(z), None), lambda _, g: (0.01 * g,))


def branch(p, h):
    return 0.1 * jnp.tanh(h) @ p["d"]


PARTLY = {
    "rounded": lambda p, h: jnp.round(8 * h) / 8 @ p["c"] + branch(p, h),
    "compared": lambda p, h: jnp.where(h @ p["b"] > 0, h, 0) @ p["c"],
    "multiplied by truths": lambda p, h: ((h @ p["b"] > 0) * h) @ p["c"],
    "the greatest": lambda p, h: (
        jax.nn.one_hot(jnp.argmax(h @ p["b"], -1), 16) @ p["c"] + h @ p["d"]
    ),
    "sorted by": lambda p, h: jnp.take_along_axis(
        h @ p["b"], jax.lax.top_k(h @ p["d"], 2)[1], 1
    ) @ p["c"][:2] + branch(p, h),
    "rounded backwards straight": lambda p, h: straight_through(h @ p["c"]) + branch(p, h),
    "steps of a scan": lambda p, h: jax.lax.scan(
        lambda c, _: (jnp.round(8 * c) / 8, c), h @ p["c"], None, length=2
    )[0] + branch(p, h),
    "either branch": lambda p, h: branch(p, h) + jax.lax.cond(
        p["a"][0, 0] > 9, jnp.tanh, lambda z: jnp.round(8 * z) / 8, h @ p["c"]
    ),
}  # fmt: skip


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", PARTLY)
def test_what_derivatives_tell_in_part_is_measured(name):
    """Predicted was a tenth of what such folds measured, without a word."""

    def apply(p, x):
        return PARTLY[name](p, jnp.tanh(x @ p["a"]))

    net = linjax.trace(apply, PARAMS, X[:1])
    with pytest.warns(linjax.FoldWarning, match=r"depend on a.* no derivative"):
        stats = linjax.collect(net, PARAMS, [X[:400]], metric="identity")
    for share in (0.95, 0.8):
        small, report = linjax.fold_and_report(PARAMS, stats, linjax.size(share))
        found = apart(apply(PARAMS, X[400:]), jax.jit(net.apply)(small, X[400:]))
        assert found <= 2.5 * report.predicted + 0.01


def test_functions_whose_derivatives_are_scaled_count_as_they_compute():
    found = []
    for own in (quieter, lambda z: z):

        def apply(p, x, own=own):
            h = jnp.tanh(x @ p["a"])
            return branch(p, h) + own(h @ p["c"])

        net = linjax.trace(apply, PARAMS, X[:1])
        with warnings.catch_warnings():
            warnings.simplefilter("error", linjax.FoldWarning)
            stats = linjax.collect(net, PARAMS, [X[:400]], metric="identity")
        _, report = linjax.fold_and_report(PARAMS, stats, linjax.size(0.8))
        found.append(report.predicted)
    np.testing.assert_allclose(*found, rtol=1e-3)
    given = jax.grad(lambda x: jnp.sum(net.apply(PARAMS, x)))(X[:3])
    assert np.isfinite(given).all()


MEETING = {
    "leaky": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "celu": jax.nn.celu,
    "hard tanh": jax.nn.hard_tanh,
    "hard swish": jax.nn.hard_swish,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "chosen": lambda z: jnp.where(z > 0, z, 0),
    "chosen the other way": lambda z: jnp.where(z <= 0.5, 0.5, z),
    "softmax": jax.nn.softmax,
    "absolute": jnp.abs,
    "clipped": lambda z: jnp.clip(z, -1, 1),
    "soft shrinkage": lambda z: jnp.where(z > 1, z - 1, jnp.where(z < -1, z + 1, 0)),
    "guarded": lambda z: jnp.where(jnp.isnan(z), 0, z),
}
JUMPING = {
    "hard shrinkage": lambda z: jnp.where(jnp.abs(z) > 1, z, 0),
    "threshold": lambda z: jnp.where(z > 1, z, 0),
    "sign": lambda z: z * jnp.sign(z + 1),
    "another's": lambda z: jnp.where(z[:, ::-1] > 0, z, 0),
}


@pytest.mark.parametrize("name", MEETING | JUMPING)
def test_choices_between_functions_that_meet_lose_nothing(name):
    function = (MEETING | JUMPING)[name]
    net = linjax.trace(lambda p, x: function(x @ p["a"] @ p["b"]) @ p["c"], PARAMS, X[:1])
    network = net.network
    product = next(op for op in network.layout.program.ops if op.name == "dot_general")
    assert (product.outputs[0].id in stepped(network)) == (name in JUMPING)


def test_deep_networks_are_looked_through_in_no_time():
    """What a choice is made of may be all that stands in front of it."""

    def apply(p, x):
        h = x @ p["a"]
        for _ in range(400):
            h = 0.5 * h + jnp.tanh(h)
        return jnp.where(h[:, ::-1] > 0, h, jax.nn.elu(h)) @ p["b"] @ p["c"]

    net = linjax.trace(apply, PARAMS, X[:1])
    product = next(op for op in net.network.layout.program.ops if op.name == "dot_general")
    assert product.outputs[0].id in stepped(net.network)
