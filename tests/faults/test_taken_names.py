"""Networks whose leaves are called as those that a fold puts beside kernels."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.program import pytree

KINDS = ("bias", "linear", "down", "residual", "computed", "bias_")


def layers(names, p, x):
    """Three layers: kernels and biases under some names."""
    kernel, bias = names[0::2], names[1::2]
    for k, b in zip(kernel[:-1], bias[:-1], strict=True):
        x = jax.nn.relu(x @ p[k] + p[b])
    return x @ p[kernel[-1]] + p[bias[-1]]


PLAIN = ("k0", "b0", "k1", "b1", "k2", "b2")


def named(kind, other):
    """Names by which biases, and a kernel, are what a fold could put beside a kernel."""
    return ("w", f"w_{kind}", f"w_{kind}_{other}", "v", f"v_{kind}", f"v_{other}")


def network(names, seed=0):
    rng = np.random.default_rng(seed)
    sizes = (5, 14, 12, 3)
    shapes = [s for a, b in itertools.pairwise(sizes) for s in ((a, b), (b,))]
    values = [jnp.asarray(rng.normal(size=s) / s[0] ** 0.5, jnp.float32) for s in shapes]
    values[1] = values[1].at[:4].set(20.0).at[4:6].set(-20.0)  # always on, dead
    params = dict(zip(names, values, strict=True))
    x = jnp.asarray(rng.uniform(-1, 1, size=(400, 5)), jnp.float32)
    return (lambda p, x: layers(names, p, x)), params, x


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """What is made of the network under plain names, once each: the oracle for all others."""
    return functools.cache(lambda how: folded(how, PLAIN, tmp_path_factory.mktemp(how)))


def folded(how, names, folder):
    apply, params, x = network(names)
    net = linjax.trace(apply, params, x[:1])
    if how == "certified":
        small = linjax.fold(params, linjax.certify(net, params, -jnp.ones(5), jnp.ones(5)))
    elif how == "lumped":
        small = linjax.lump(net, params)
    elif how == "compressed":
        small = linjax.compress(
            net, params, [x], linjax.size(0.6), metric="identity", progress=False
        )
    else:
        stats = linjax.collect(net, params, [x], metric="identity")
        rule = linjax.threshold(0.95) if how == "published" else linjax.size(0.5)
        small = linjax.fold(params, stats, rule)
    if how == "again":
        stats = linjax.collect(net, small, [x], metric="identity")
        small = linjax.fold(small, stats, linjax.size(0.4))
    y = jax.jit(net.apply)(small, x)
    linjax.save(folder / names[0], net, small)
    loaded, stored = linjax.load(folder / names[0])
    np.testing.assert_allclose(jax.jit(loaded.apply)(stored, x), y, rtol=1e-5, atol=1e-5)
    assert apply(params, x).shape == y.shape
    return linjax.count(small), y, set(pytree.flatten(small))


@pytest.mark.quick(12)
@pytest.mark.parametrize("how", ["size", "again", "published", "certified", "lumped", "compressed"])
@pytest.mark.parametrize("kind", KINDS)
def test_names_of_leaves_make_no_difference(kind, how, plain, tmp_path):
    """The same network under plain names is the oracle."""
    other = KINDS[KINDS.index(kind) - 1]
    count, y, _ = plain(how)
    other_count, other_y, _ = folded(how, named(kind, other), tmp_path)
    assert other_count == count
    np.testing.assert_allclose(other_y, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_of_the_network_keep_their_paths(kind):
    names = named(kind, "other")
    apply, params, x = network(names)
    net = linjax.trace(apply, params, x[:1])
    np.testing.assert_array_equal(net.apply(params, x), apply(params, x))
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.5))
    own = [net.network.extra(n, kind) for n in range(len(names)) for kind in ("bias", "linear")]
    assert not set(own) & {(name,) for name in names}
    assert set(small) >= {"w", "v"}
