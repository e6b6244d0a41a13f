"""PReLU and leaky ReLU through the public functions: certify, check, fold on the box, lump."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import linjax
from linjax.chains.maps import Slope
from linjax.evidence.bounds import Verdict

WIDTHS = (5, 12, 10, 3)


def prelu(x, slope):
    return jnp.where(x >= 0, x, slope * x)


def apply(params, x):
    for i in range(3):
        x = x @ params[f"w{i}"] + params[f"b{i}"]
        x = prelu(x, params[f"a{i}"]) if i < 2 else x
    return x


def parameters(seed, dtype=np.float64):
    """A third of the units is on, a third off; slopes of both signs, some above one."""
    rng = np.random.default_rng(seed)
    params = {}
    for i, (p, q) in enumerate(itertools.pairwise(WIDTHS)):
        shift = rng.choice([-1.0, 0.0, 1.0], q) * np.sqrt(p) * 3.0
        params[f"w{i}"] = rng.normal(size=(p, q)) / np.sqrt(p)
        params[f"b{i}"] = 0.1 * rng.normal(size=q) + shift * (i < 2)
    for i in range(2):
        params[f"a{i}"] = rng.choice([-0.5, 0.0, 0.25, 1.0, 2.0], WIDTHS[i + 1])
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def close(net, before, after, x, tolerance):
    want, found = (
        np.asarray(jax.jit(net.apply)(before, x)),
        np.asarray(jax.jit(net.apply)(after, x)),
    )
    np.testing.assert_allclose(found, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("seed", range(3))
def test_prelu_with_a_slope_per_unit(seed):
    params = parameters(seed)
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.uniform(-1, 1, (20_000, 5)))
    net = linjax.trace(apply, params, x[:2])
    assert [site.activation.name for site in net.graph.sites] == ["prelu", "prelu"]
    bounds = linjax.certify(net, params, -1.0, 1.0)
    assert linjax.check_certificate(net, params, bounds).ok
    v = x
    for i, site in enumerate(bounds.sites):
        z = np.asarray(v @ params[f"w{i}"] + params[f"b{i}"])
        v = prelu(z, params[f"a{i}"])
        assert (z.min(axis=0) >= site.lower).all() and (z.max(axis=0) <= site.upper).all()
        assert not (site.verdict == Verdict.UNDECIDED).any()
        assert {Verdict.ACTIVE, Verdict.INACTIVE} <= set(site.verdict)
    folded = linjax.fold(params, bounds)
    assert linjax.count(folded) < linjax.count(params)
    corners = jnp.sign(x[:2000])
    close(net, params, folded, jnp.concatenate([x, corners]), 1e-12)
    again = linjax.certify(net, folded, -1.0, 1.0)
    assert linjax.check_certificate(net, folded, again).ok


def test_units_that_were_proven_are_read_at_their_own_slope():
    params = parameters(0)
    params["a0"] = params["a0"].at[:].set(jnp.arange(12) / 8)
    net = linjax.trace(apply, params, jnp.ones((1, 5)))
    bounds = linjax.certify(net, params, -1.0, 1.0)
    x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (500, 5)))
    for rules in (("inactive", "dependent", "fold_layer", "collapse"), ("linear",)):
        close(net, params, linjax.fold(params, bounds, rewritings=rules), x, 1e-12)
    swapped = params | {"a0": params["a0"][::-1]}
    with pytest.raises(linjax.EvidenceError):
        linjax.fold(swapped, bounds)


def test_lumping_joins_units_of_equal_slope_only():
    params = parameters(2)
    for name in ("w0", "b0"):
        column = params[name][..., :1] * jnp.array([2.0, 3.0])
        params[name] = params[name].at[..., 1:3].set(column)
    params["a0"] = params["a0"].at[:3].set(jnp.array([0.25, 0.25, 0.5]))
    net = linjax.trace(apply, params, jnp.ones((1, 5)))
    lumped, (report,) = linjax.lump_and_report(net, params)
    assert (report.units[0], report.kept[0]) == (12, 11)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(500, 5)))
    close(net, params, lumped, x, 1e-12)


@pytest.mark.parametrize("framework", ["linen", "nnx", "leaky"])
def test_modules_of_flax(framework):
    x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 0.6, (300, 4)), jnp.float32)
    if framework == "nnx":
        model = nnx.Sequential(
            nnx.Linear(4, 16, rngs=nnx.Rngs(0)),
            nnx.PReLU(negative_slope_init=0.25),
            nnx.Linear(16, 2, rngs=nnx.Rngs(1)),
        )
        split, state = nnx.split(model)
        params = nnx.to_pure_dict(state)

        def function(params, x):
            return nnx.merge(split, params)(x)
    else:
        middle = (
            nn.PReLU(negative_slope_init=0.25)
            if framework == "linen"
            else lambda x: nn.leaky_relu(x, 0.25)
        )
        module = nn.Sequential([nn.Dense(16), middle, nn.Dense(2)])
        params = module.init(jax.random.key(0), x)
        function = module.apply
    net = linjax.trace(function, params, x[:2])
    (site,) = net.graph.sites
    bounds = linjax.certify(net, params, 0.5, 0.6)
    assert linjax.check_certificate(net, params, bounds).ok
    assert (bounds.sites[0].verdict == Verdict.INACTIVE).any()
    folded = linjax.fold(params, bounds)
    close(net, params, folded, x, 1e-6)
    if framework != "leaky":
        assert site.activation.learned[0].leaf[-1] == "negative_slope"
        assert site.activation.learned[1] == Slope(1.0)


@pytest.mark.parametrize(
    ("function", "learned"),
    [
        (prelu, (Slope(0.0, ("a",)), Slope(1.0))),
        (lambda z, a: jnp.maximum(z, 0) * a, (Slope(0.0), Slope(0.0, ("a",)))),
        (lambda z, a: jnp.maximum(z, a * z), None),  # the larger of two slopes
        (lambda z, a: jnp.maximum(z, 0) + a, None),
        (lambda z, a: jnp.tanh(a * z), None),
        (lambda z, a: jnp.where(z > 0, z, a * a * z), None),
    ],
)
@pytest.mark.parametrize("shape", [(), (6,)])
def test_slopes_are_measured(function, learned, shape):
    params = {"in": jnp.ones((3, 6)), "a": jnp.full(shape, 0.5), "out": jnp.ones((6, 2))}

    def apply(params, x):
        return function(x @ params["in"], params["a"]) @ params["out"]

    net = linjax.trace(apply, params, jnp.ones((1, 3)))
    if learned is None:
        assert all(site.activation.learned is None for site in net.graph.sites)
    else:
        (site,) = net.graph.sites
        assert site.activation.learned == learned
        assert site.activation.slopes is None


def test_two_learned_slopes():
    params = {"in": jnp.ones((3, 6)), "out": jnp.ones((6, 2))}
    params |= {"below": jnp.arange(6) / 4, "above": -jnp.arange(6) / 8}

    def apply(params, x):
        z = x @ params["in"]
        return jnp.where(z < 0, params["below"] * z, params["above"] * z) @ params["out"]

    net = linjax.trace(apply, params, jnp.ones((1, 3)))
    (site,) = net.graph.sites
    assert site.activation.learned == (Slope(0.0, ("below",)), Slope(0.0, ("above",)))
    bounds = linjax.certify(net, params, 0.5, 1.0)
    folded = linjax.fold(params, bounds)
    x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1, (50, 3)))
    close(net, params, folded, x, 1e-6)


def test_the_published_fold_knows_that_prelu_is_the_identity_above_zero():
    params = parameters(0)
    params["b0"] = jnp.full(12, 40.0)
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (200, 5)))
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x])
    folded = linjax.fold(params, stats, linjax.threshold(1.0))
    assert "w0" not in folded
    close(net, params, folded, x, 1e-12)
