"""What a refusal advises is done here, in the situation in which it is given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import linjax
from linjax.dims.space import HINTS
from tests.arrays import placed

RNG = np.random.default_rng(0)
relu = jax.nn.relu


def a(*shape):
    return placed(RNG.normal(size=shape) / np.sqrt(shape[0]))


P = {"w": a(8, 32), "v": a(32, 8), "o": a(8, 3)}
X = a(200, 8) * 9


def block(p, h):
    return h + relu(h @ p["w"]) @ p["v"]


def looping(p, x):
    return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, block(p, s[1])), (0, x))[1]


def scanning(p, x):
    return jax.lax.fori_loop(0, 2, lambda _, h: block(p, h), x)


def choosing(p, x):
    ways = (lambda h: relu(h @ p["w"]) @ p["v"], lambda h: h)
    return jax.lax.cond(jnp.sum(x * x) >= 0, *ways, x)


def chosen(p, x):
    return relu(x @ p["w"]) @ p["v"]


@jax.custom_vjp
def own(z):
    return relu(z)


own.defvjp(lambda z: (relu(z), z), lambda z, g: (g * (z > 0),))


def with_own(p, x):
    return own(x @ p["w"]) @ p["v"]


def regional(p, x):
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = PartitionSpec("data")
    return jax.shard_map(relu, mesh=mesh, in_specs=spec, out_specs=spec)(x @ p["w"]) @ p["v"]


def with_pallas(p, x):
    from jax.experimental import pallas as pl

    def kernel(z_ref, o_ref):
        o_ref[...] = jnp.maximum(z_ref[...], 0.0)

    z = x @ p["w"]
    shape = jax.ShapeDtypeStruct(z.shape, z.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(z) @ p["v"]


def dropping(p, x):
    z = relu(x @ p["w"])
    return jnp.where(jax.random.bernoulli(jax.random.key(0), 1.0, z.shape), z, 0) @ p["v"]


CASES = {
    "while": (looping, scanning),
    "cond": (choosing, chosen),
    "custom_vjp_call": (with_own, chosen),
    "bitcast_convert_type": (dropping, chosen),
    "shard_map": (regional, chosen),
    "pallas_call": (with_pallas, chosen),
}


def test_every_hint_has_a_case():
    assert CASES.keys() == HINTS.keys()


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_of_a_primitive(case):
    refused, advised = CASES[case]
    net = linjax.trace(refused, P, X)
    reasons = [r.reason for r in net.network.refusals]
    assert HINTS[case] in reasons and HINTS[case] in repr(net)
    better = linjax.trace(advised, P, X)
    np.testing.assert_allclose(
        better.apply(P, X), jax.jit(refused)(P, X), rtol=1e-4, atol=1e-4
    )  # the same function
    assert "w" in [site.name for site in better.network.foldable]
    stats = linjax.collect(better, P, [X], metric="identity")
    assert linjax.count(linjax.fold(P, stats, linjax.size(0.8))) <= 0.8 * linjax.count(P)


def by_row(p, x):
    def one(p, h):
        return relu(h @ p["w"]) @ p["v"]

    ways = (lambda h: one(p, h), lambda h: one({**p, "w": 2 * p["w"]}, h))
    return jax.vmap(lambda h: jax.lax.cond(h[0] > 0, *ways, h))(x)


def by_where(p, x):
    one, other = (relu(x @ w) @ p["v"] for w in (p["w"], 2 * p["w"]))
    return jnp.where(x[:, :1] > 0, one, other)


def test_a_branch_for_each_row_says_what_to_do():
    net = linjax.trace(by_row, P, X)
    assert not net.network.foldable and "jnp.where" in repr(net)
    with pytest.raises(linjax.StructureError, match="w: its kernel depends on the inputs"):
        linjax.collect(net, P, [X])
    better = linjax.trace(by_where, P, X)
    np.testing.assert_allclose(by_where(P, X), by_row(P, X), rtol=1e-4, atol=1e-4)
    assert [site.name for site in better.network.foldable] == ["w"]


def test_certificates_say_what_they_are_of():
    kernel = a(3, 3, 1, 8)

    def images(p, x):
        dims = ("NHWC", "HWIO", "NHWC")
        h = relu(jax.lax.conv_general_dilated(x, p["c"], (1, 1), "SAME", dimension_numbers=dims))
        return h.mean((1, 2)) @ p["v"]

    params, x = {"c": kernel, "v": a(8, 2)}, a(4, 5, 5, 1)
    with pytest.warns(linjax.FoldWarning, match="not of convolutions"):
        linjax.certify(linjax.trace(images, params, x), params, -1.0, 1.0)
    scaled = linjax.trace(lambda p, x: chosen(p, (x - 128) / 127), P, X)
    found = linjax.certify(scaled, P, 0.0, 255.0)
    assert "on a box of what it is given" in repr(found)
    small = linjax.fold(P, linjax.certify(linjax.trace(chosen, P, X), P, -1.0, 1.0))
    np.testing.assert_allclose(chosen(small, X / 99), chosen(P, X / 99), rtol=1e-4, atol=1e-4)


def evidence(**options):
    net = linjax.trace(chosen, P, X)
    return net, linjax.collect(net, P, [X], metric="identity", **options)


def test_sizes_need_second_moments():
    _, stats = evidence(second_moments=False)
    with pytest.raises(linjax.EvidenceError, match="collect with second_moments=True"):
        linjax.fold(P, stats, linjax.size(0.5))
    linjax.fold(P, evidence(second_moments=True)[1], linjax.size(0.5))


def test_a_frontier_is_of_its_parameters():
    net, stats = evidence()
    moved = jax.tree.map(lambda x: 1.5 * x, P)
    with pytest.raises(linjax.LinjaxError, match="make one for these"):
        linjax.fold(moved, linjax.frontier(P, stats), linjax.size(0.5))
    stats = linjax.collect(net, moved, [X], metric="identity")
    linjax.fold(moved, linjax.frontier(moved, stats), linjax.size(0.5))


def test_bounds_are_of_their_parameters():
    net, _ = evidence()
    moved = jax.tree.map(lambda x: 1.5 * x, P)
    with pytest.raises(linjax.LinjaxError, match="certify these"):
        linjax.fold(moved, linjax.certify(net, P, -1.0, 1.0))
    linjax.fold(moved, linjax.certify(net, moved, -1.0, 1.0))


def test_evidence_is_of_its_sizes():
    net, stats = evidence()
    small = linjax.fold(P, stats, linjax.size(0.5))
    again = linjax.collect(net, small, [X], metric="identity")
    with pytest.raises(linjax.LinjaxError, match="collect on these"):
        linjax.fold(P, again, linjax.size(0.3))
    assert linjax.count(linjax.fold(small, again, linjax.size(0.8))) <= linjax.count(small)


def test_batches_that_end():
    net, _ = evidence()
    with pytest.raises(linjax.EvidenceError, match="pass a list, or a function"):
        linjax.compress(net, P, iter([X]), linjax.size(0.5), metric="identity")
    for batches in ([X], lambda: iter([X])):
        small = linjax.compress(net, P, batches, linjax.size(0.5), metric="identity", joint=False)
        assert linjax.count(small) <= 0.5 * linjax.count(P)
