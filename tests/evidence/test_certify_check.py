"""The verification accepts every certificate as made, and nothing that has been tampered with."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.chains.layers import Layer
from linjax.errors import EvidenceError
from linjax.evidence.bounds import Verdict
from linjax.evidence.certify import certify, check_certificate
from linjax.evidence.certify.chain import certify_layers
from linjax.evidence.certify.check import check_layers
from tests.reference import certified

RELU = (0.0, 1.0)


@pytest.fixture(scope="module")
def branched():
    """A chain with units decided in every way, several of them by branching."""
    rng = np.random.default_rng(8)
    layers = tuple(
        Layer(rng.normal(size=(a, b)), 0.3 * rng.normal(size=b))
        for a, b in itertools.pairwise((3, 10, 10, 40, 1))
    )
    bias = layers[2].bias
    free = (*layers[:2], layers[2]._replace(bias=np.zeros_like(bias)), layers[3])
    low = certify_layers(free, [RELU] * 3, -1.0, 1.0, method="alpha-crown")[2].lower
    # Halfway between what α-CROWN proves and what samples show, branching has to decide.
    x = rng.uniform(-1, 1, (4000, 3))
    for layer in free[:2]:
        x = np.maximum(x @ layer.kernel + layer.bias, 0)
    shift = -(0.7 * (x @ free[2].kernel).min(axis=0) + 0.3 * low)
    layers = (*free[:2], free[2]._replace(bias=shift), free[3])
    return layers, certify_layers(layers, [RELU] * 3, -1.0, 1.0)


def verify(layers, sites):
    return check_layers(layers, [RELU] * 3, -1.0, 1.0, sites)


def test_accepts_what_was_made(branched):
    layers, sites = branched
    assert len(sites[2].leaves.unit) > len(np.unique(sites[2].leaves.unit)) > 0
    assert all(check.ok for check in verify(layers, sites))


@pytest.mark.parametrize("verdict", [Verdict.ACTIVE, Verdict.INACTIVE, Verdict.UNSTABLE])
def test_rejects_other_verdicts(branched, verdict):
    layers, sites = branched
    for index, site in enumerate(sites):
        false = site._replace(verdict=np.full_like(site.verdict, verdict))
        check = verify(layers, (*sites[:index], false, *sites[index + 1 :]))[index]
        np.testing.assert_array_equal(check.verdict, site.verdict == verdict)


def test_rejects_tighter_bounds(branched):
    layers, sites = branched
    for index, site in enumerate(sites):
        width = 0.5 * (site.upper - site.lower)
        false = site._replace(lower=site.lower + width, upper=site.upper - 1e-3 * width)
        check = verify(layers, (*sites[:index], false, *sites[index + 1 :]))[index]
        assert not check.lower.any()
        assert not check.upper.any()


def test_rejects_a_missing_leaf_and_leaves_that_overlap(branched):
    layers, sites = branched
    site = sites[2]
    unit = site.leaves.unit[-1]
    missing = jax.tree.map(lambda a: a[:-1], site.leaves)
    doubled = jax.tree.map(lambda a: np.concatenate([a, a[-1:]]), site.leaves)
    for leaves in (missing, doubled):
        check = verify(layers, (*sites[:2], site._replace(leaves=leaves)))[2]
        assert not check.verdict[unit]
        assert check.verdict.sum() == len(check.verdict) - 1


def test_rejects_leaves_for_other_splits(branched):
    layers, sites = branched
    site = sites[2]
    splits = tuple(np.zeros_like(s) for s in site.leaves.splits)
    check = verify(layers, (*sites[:2], site._replace(leaves=site.leaves._replace(splits=splits))))
    assert not check[2].verdict[site.leaves.unit].any()


def test_any_slopes_are_sound(branched):
    """Bounds from arbitrary parameters are weaker, never wrong: the rest still holds."""
    layers, sites = branched
    rng = np.random.default_rng(0)
    site = sites[2]
    noise = tuple(rng.uniform(-5, 5, p.shape).astype(p.dtype) for p in site.proofs.params)
    check = verify(layers, (*sites[:2], site._replace(proofs=site.proofs._replace(params=noise))))
    assert not check[2].ok
    stable = (check[2].verdict) & (site.verdict != Verdict.UNDECIDED)
    assert stable.any()


def test_rejects_witnesses_outside_the_box_or_without_the_sign(branched):
    layers, sites = branched
    site = sites[0]
    unstable = site.verdict == Verdict.UNSTABLE
    outside = site._replace(points=site.points * 1.5)
    swapped = site._replace(witness=site.witness[:, ::-1])
    beyond = site._replace(witness=site.witness + len(site.points))
    for false in (outside, swapped, beyond):
        check = verify(layers, (false, *sites[1:]))[0]
        np.testing.assert_array_equal(check.verdict, ~unstable)


def test_a_false_bound_supports_nothing_behind_it(branched):
    layers, sites = branched
    false = sites[0]._replace(lower=np.full(10, -1e-9), upper=np.full(10, 1e-9))
    checks = verify(layers, (false, *sites[1:]))
    assert not checks[0].ok
    everything = sites[1]._replace(lower=np.full(10, -10.0), upper=np.full(10, -1e-3))
    assert not verify(layers, (false, everything, sites[2]))[1].upper.all()


@pytest.fixture
def network():
    rng = np.random.default_rng(0)
    params = {
        f"layer_{i}": {
            "kernel": jnp.asarray(rng.normal(size=(a, b)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=b), jnp.float32),
        }
        for i, (a, b) in enumerate(itertools.pairwise((6, 12, 12, 3)))
    }

    def apply(params, x):
        x = x.reshape(x.shape[0], -1)
        for i in range(3):
            x = x @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"]
            x = jax.nn.relu(x) if i < 2 else x
        return x

    return linjax.trace(apply, params, jnp.ones((1, 2, 3))), params


def test_traced_networks(network):
    net, params = network
    for side in (1.0, np.ones((2, 3)), np.ones(6)):
        bounds = certify(net, params, 0.0, side)
        assert [len(site.verdict) for site in bounds.sites] == [12, 12]
        assert check_certificate(net, params, bounds).ok
    assert "undecided" in repr(bounds)
    leaves, structure = jax.tree.flatten(bounds)
    assert repr(jax.tree.unflatten(structure, leaves)) == repr(bounds)


def test_bounds_of_other_parameters_are_refused(network):
    net, params = network
    bounds = certify(net, params, 0.0, 1.0)
    other = jax.tree.map(lambda p: p + 1e-7, params)
    with pytest.raises(EvidenceError, match="other parameters"):
        check_certificate(net, other, bounds)


def test_activations_without_a_relaxation_are_refused():
    params = {"in": jnp.ones((2, 3)), "out": jnp.ones((3, 1))}
    net = linjax.trace(lambda p, x: jax.nn.gelu(x @ p["in"]) @ p["out"], params, jnp.ones((1, 2)))
    with pytest.warns(linjax.FoldWarning, match="in: activation gelu"):
        bounds = certify(net, params, 0.0, 1.0)
    assert "in: activation gelu" in repr(bounds) and check_certificate(net, params, bounds).ok


@pytest.mark.parametrize(
    "name", ["25-25_0.001_1", "100-100_0.0005_0", "100-100_0.0005_1", "400-400_0.0002_1"]
)
def test_reference_networks(shared, name):
    known = {
        "25-25_0.001_1": [(0, 7), (9, 2)],
        "100-100_0.0005_0": [(35, 30), (35, 20)],
        "100-100_0.0005_1": [(44, 28), (65, 17)],
        "400-400_0.0002_1": [(269, 60), (181, 56)],
    }
    layers, sites = certified(shared, name)
    assert not any((site.verdict == Verdict.UNDECIDED).any() for site in sites)
    counts = [
        tuple(int((site.verdict == v).sum()) for v in (Verdict.ACTIVE, Verdict.INACTIVE))
        for site in sites
    ]
    assert counts == known[name]
    assert all(check.ok for check in check_layers(layers, [RELU] * 2, 0.0, 1.0, sites))


@pytest.mark.slow
def test_deep_reference_network(shared):
    layers, sites = certified(shared, "100-100-100-100-100_0.0002_1")
    assert sum(int((site.verdict == Verdict.UNDECIDED).sum()) for site in sites) <= 2
    assert all(check.ok for check in check_layers(layers, [RELU] * 5, 0.0, 1.0, sites))
