"""Where nothing can be proven nothing is claimed, and the reason is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax

relu = jax.nn.relu
X = jnp.linspace(0.0, 1.0, 41)[:, None]
P = {
    "w": jnp.asarray(np.linspace(-2, 2, 12)[None], jnp.float32),
    "b": jnp.asarray(np.tile([3.0, -3.0, 0.1], 4), jnp.float32),
    "v": jnp.asarray(np.random.default_rng(0).normal(size=(12, 2)), jnp.float32),
}


def layer(activation, prefix=lambda x: x):
    return lambda p, x: activation(prefix(x) @ p["w"] + p["b"]) @ p["v"]


UNPROVABLE = {
    "a tent": (layer(lambda z: jnp.maximum(0.5 - jnp.abs(z - 2.5), 0)), "it bends or jumps"),
    "hard tanh": (layer(lambda z: jnp.clip(z, -1, 1)), "it bends or jumps at -1, 1"),
    "gelu": (layer(jax.nn.gelu), "isn't piecewise linear with its kink"),
    "inputs cut to whole numbers": (
        layer(relu, lambda x: x.astype(jnp.int32).astype(jnp.float32)), "cast from float32",
    ),
    "rounded inputs": (layer(relu, lambda x: jnp.round(8 * x) / 8), "it reads the result of"),
    "moved inputs": (layer(relu, lambda x: 2 * x - 1), "it reads the result of"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNPROVABLE)
def test_undecided_with_the_reason(name):
    apply, reason = UNPROVABLE[name]
    net = linjax.trace(apply, P, X[:1])
    with pytest.warns(linjax.FoldWarning, match=f"nothing is claimed there: w: .*{reason}"):
        bounds = linjax.certify(net, P, 0.0, 1.0)
    assert not bounds.sites[0].verdict.any() and reason in repr(bounds)
    assert linjax.check_certificate(net, P, bounds).ok
    with pytest.warns(linjax.FoldWarning, match="nothing was folded"):
        small = linjax.fold(P, bounds)
    assert small is P


def test_a_claim_about_it_does_not_check():
    honest = linjax.trace(layer(relu), P, X[:1])
    bounds = linjax.certify(honest, P, 0.0, 1.0)
    tent = linjax.trace(UNPROVABLE["a tent"][0], P, X[:1])
    with pytest.warns(linjax.FoldWarning):
        none = linjax.certify(tent, P, 0.0, 1.0)
    forged = linjax.Bounds(**{**vars(none), "sites": bounds.sites})
    assert not linjax.check_certificate(tent, P, forged).ok


def test_other_chains_are_decided_all_the_same():
    """A branch of tanh beside one of ReLU."""

    def apply(p, x):
        return relu(x @ p["w"] + p["b"]) @ p["v"] + jnp.tanh(x @ p["s"]) @ p["t"]

    params = {**P, "s": jnp.ones((1, 5)), "t": jnp.ones((5, 2))}
    net = linjax.trace(apply, params, X[:1])
    with pytest.warns(linjax.FoldWarning, match="s: activation tanh"):
        bounds = linjax.certify(net, params, 0.0, 1.0)
    decided = {
        s.name: bool(b.verdict.any()) for s, b in zip(net.graph.sites, bounds.sites, strict=True)
    }
    assert decided == {"w": True, "s": False}
    assert linjax.check_certificate(net, params, bounds).ok
    small = linjax.fold(params, bounds)
    assert linjax.count(small) < linjax.count(params)
    np.testing.assert_allclose(net.apply(small, X), apply(params, X), atol=1e-5)


def test_a_network_without_dense_chains_has_no_certificate():
    def apply(p, x):
        y = jax.lax.conv_general_dilated(
            x, p["a"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return relu(y).mean((1, 2)) @ p["b"]

    params = {"a": jnp.ones((3, 3, 2, 8)), "b": jnp.ones((8, 2))}
    net = linjax.trace(apply, params, jnp.ones((1, 4, 4, 2)))
    with pytest.warns(linjax.FoldWarning, match="no chains of dense layers"):
        bounds = linjax.certify(net, params, 0.0, 1.0)
    assert bounds.sites == () and linjax.check_certificate(net, params, bounds).ok
    with pytest.warns(linjax.FoldWarning, match="nothing was folded"):
        assert linjax.fold(params, bounds) is params
