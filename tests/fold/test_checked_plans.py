"""Plans carried out in place, what their parts have to do with their error, prices by that."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.program import pytree
from tests.arrays import placed
from tests.dims.random_networks import make
from tests.fold.images import NETWORKS, collected, inputs
from tests.fold.test_queries import network as queries

check = importlib.import_module("linjax.fold.check.corrected")
in_place = importlib.import_module("linjax.fold.check.in_place").in_place
measure = importlib.import_module("linjax.fold.check.shares")
chosen = importlib.import_module("linjax.fold.plans.pricing").chosen


def carried_out(params, known, rule):
    """A plan, and the same in place."""
    plan = known.plan(rule)
    network, problems = known.stats.network, known.problems
    flat = network.flatten(params)
    return plan, in_place(network, flat, problems, chosen(problems, plan), plan.state.ranks)


def alike(net, params, flat, x):
    leaves = {path: jnp.asarray(leaf) for path, leaf in flat.items()}
    return net.apply(pytree.unflatten(leaves, like=params), x)


def check_in_place(net, params, stats, x, size, tolerance):
    """The function of a plan in place is the folded network's, whatever its widths."""
    known = linjax.frontier(params, stats)
    rule = known.reachable(linjax.size(size))
    small = linjax.fold(params, known, rule)
    plan, own = carried_out(params, known, rule)
    y, z = jax.jit(net.apply)(params, x), jax.jit(net.apply)(small, x)
    scale = float(jnp.abs(y - y.mean(0)).max()) + 1e-6
    assert {p: np.shape(v) for p, v in own.before.items()} == {
        p: np.shape(v) for p, v in own.after.items()
    }
    if not own.streams:  # these are narrowed before, too
        np.testing.assert_allclose(alike(net, params, own.before, x), y, atol=tolerance * scale)
    np.testing.assert_allclose(alike(net, params, own.after, x), z, atol=tolerance * scale)
    return plan, own


@pytest.mark.quick(4)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_plan_in_place_computes_what_the_folded_network_does(kind):
    apply, params, x = NETWORKS[kind]()
    x = inputs(x)
    net, stats = collected(apply, params, x)
    check_in_place(net, params, stats, x[:20], 0.6, 2e-4)


@pytest.mark.parametrize("kind", ["plain", "grouped", "scanned"])
def test_queries_and_keys_in_place(kind):
    apply, params = queries(kind)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(100, 5, 12)), jnp.float32)
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x], metric="identity")
    check_in_place(net, params, stats, x[:20], 0.75, 2e-4)


# 9: a constant along a layer without units; 133: a scan over several axes; 135: experts' biases;
# 70002: what experts' linear coordinates lack; 71055: a reader of linear ones alone tells sizes.
SEEDS = [*((seed, 0.7) for seed in (*range(12), 133, 135)), (70002, 0.8), (71055, 0.4)]


@pytest.mark.quick(6)
@pytest.mark.parametrize(("seed", "size"), SEEDS)
def test_plans_of_random_networks_in_place(seed, size):
    apply, params, x, _ = make(seed)
    draws = np.random.default_rng(seed).normal(size=(40, *x.shape))
    batches = [jnp.asarray(own, jnp.float32) for own in draws]
    net = linjax.trace(apply, params, x)
    if not net.network.foldable:
        pytest.skip("nothing folds")
    stats = linjax.collect(net, params, batches, metric="identity")
    check_in_place(net, params, stats, batches[0], size, 1e-3)


def normed_stream(p, x):
    """Blocks behind RMS norms, on a stream of directions that hardly move."""

    def norm(h, scale):
        return scale * h * jax.lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-5)

    h = x @ p["embed"]
    for q in p["blocks"]:
        h = h + jax.nn.relu(norm(h, q["scale"]) @ q["up"]) @ q["down"]
    return norm(h, p["last"]) @ p["head"]


def test_normed_streams_stay_narrow_in_place_and_their_shares_are_told():
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(12, 12)))[0] * ([1.0] * 7 + [0.05] * 5)

    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, jnp.float32)

    into = jnp.asarray(basis.T, jnp.float32)
    blocks = [
        {"scale": 1 + kernel(12) / 9, "up": kernel(12, 24), "down": kernel(24, 12) @ into}
        for _ in range(2)
    ]
    params = {
        "embed": 2 * kernel(6, 12) @ into, "blocks": blocks, "last": 1 + kernel(12) / 9,
        "head": kernel(12, 4),
    }  # fmt: skip
    x = jnp.asarray(rng.normal(size=(2000, 6)), jnp.float32)
    net = linjax.trace(normed_stream, params, x[:2])
    stats = linjax.collect(net, params, [x], metric="identity")
    known = linjax.frontier(params, stats)
    rule = known.reachable(linjax.size(0.7))
    plan, _ = check_in_place(net, params, stats, x[:20], 0.7, 2e-4)
    (stream,) = [n for n, s in enumerate(known.problems.sites) if s.norms is not None]
    assert plan.state.units[stream] < 12
    _, found = measured(net, params, known, rule, x)
    assert found.complete and found.sites[stream] > 0
    better = linjax.corrected(net, params, known, [x], rule)
    small = linjax.fold(params, better, rule)
    assert linjax.compare(net, params, small, [x], metric="identity").error < 0.3


def pooled(p, x):
    """Two convolutions, each position's results being added up before the head."""

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    h = jax.nn.relu(conv(x, p["first"]) + 0.5)
    h = jax.nn.relu(conv(h, p["second"]))
    return jax.nn.relu(h.mean((1, 2)) @ p["third"]) @ p["head"]


def smooth(rows=300, seed=0):
    """Images that hardly differ from place to place, with noise that does."""
    rng = np.random.default_rng(seed)
    flat = rng.normal(size=(rows, 1, 1, 4)) * [0.4, 0.3, 0.2, 0.1]
    return placed(flat + rng.normal(size=(rows, 6, 6, 4)) * [0.2, 0.4, 0.6, 0.8])


def coherent(seed=0):
    """A network whose plans are worse than predicted, since errors of places add up."""
    rng = np.random.default_rng(seed)

    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.prod(shape[:-1]) ** 0.5, jnp.float32)

    params = {
        "first": 2 * kernel(3, 3, 4, 16), "second": 2 * kernel(3, 3, 16, 16),
        "third": 2 * kernel(16, 24), "head": kernel(24, 4),
    }  # fmt: skip
    x = smooth(seed=seed)
    net = linjax.trace(pooled, params, x[:2])
    stats = linjax.collect(net, params, [x[:150], x[150:]], metric="identity")
    return net, params, linjax.frontier(params, stats), x


def measured(net, params, known, rule, x):
    plan, own = carried_out(params, known, rule)
    counts = len(known.problems.sites), len(known.problems.kernels)
    return plan, measure.shares(own, measure.goals(net, params, (x,)), counts, known.stats.metric)


def test_shares_add_up_to_the_measured_error():
    net, params, known, x = coherent()
    rule = linjax.size(0.6)
    plan, found = measured(net, params, known, rule, x)
    rows = x[: len(x) - len(x) % measure.TOGETHER]
    small = linjax.fold(params, known, rule)
    truth = jnp.sum((net.apply(small, rows) - net.apply(params, rows)) ** 2) / len(rows)
    np.testing.assert_allclose(found.total, truth, rtol=1e-3)
    np.testing.assert_allclose(found.sites.sum() + found.kernels.sum(), truth, rtol=0.1)
    compared = linjax.compare(net, params, small, [rows], metric="identity")
    np.testing.assert_allclose(found.error, compared.error, rtol=1e-3)
    stays = [n for n, (k, own) in enumerate(zip(plan.state.units, known.problems.problems,
                                                strict=True)) if k == own.width]  # fmt: skip
    assert not found.sites[stays].any()
    assert not found.kernels[[n for n, rank in enumerate(plan.state.ranks) if not rank]].any()


def test_the_share_of_the_only_site_folded_is_all_of_the_error():
    net, params, known, x = coherent()
    for site in known.problems.sites:
        others = {s.name: 1.0 for s in known.problems.sites if s is not site}
        names = [known.stats.network.names[k.leaf] for k in known.problems.kernels]
        rule = known.reachable(linjax.size(0.5, least={**others, **dict.fromkeys(names, 1.0)}))
        plan, found = measured(net, params, known, rule, x)
        assert not any(plan.state.ranks)
        at = known.problems.sites.index(site)
        np.testing.assert_allclose(found.sites[at], found.total, rtol=0.1)
        assert not np.delete(found.sites, at).any()


@pytest.mark.quick(3)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [0.7, 0.5])
def test_corrected_plans_are_no_worse_and_predicted(seed, size):
    net, params, known, x = coherent(seed)
    rule = linjax.size(size)
    own = linjax.corrected(net, params, known, [x], rule)
    fresh = smooth(rows=500, seed=seed + 100)

    def error(evidence):
        small = linjax.fold(params, evidence, rule)
        return linjax.compare(net, params, small, [fresh], metric="identity").error

    plain, better = error(known), error(own)
    assert better <= 1.1 * plain
    assert 1 / 1.6 < own.plan(rule).error / better < 1.6


@pytest.mark.parametrize("at", [0, 2])
def test_corrections_find_the_site_that_is_priced_too_low(at):
    """Where one site's prices are a hundredth of what they should be, its plan is corrected."""
    net, params, known, x = coherent()
    rule = linjax.size(0.6)
    factors = np.ones(len(known.problems.sites) + len(known.problems.kernels))
    factors[at] = 0.01
    wrong = check.scaled(known, factors)
    assert wrong.plan(rule).state.units[at] < known.plan(rule).state.units[at]
    own = linjax.corrected(net, params, wrong, [x], rule)
    errors = [
        linjax.compare(net, params, linjax.fold(params, k, rule), [x], metric="identity").error
        for k in (wrong, own, known)
    ]
    assert errors[1] <= 1.05 * min(errors)


def test_frontiers_stay_as_they_are_without_derivatives_or_a_plan():
    def rounded(p, x):
        return jnp.round(4 * jax.nn.relu(x @ p["in"]) @ p["out"])

    rng = np.random.default_rng(0)
    kernels = {"in": (6, 16), "out": (16, 3)}
    params = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in kernels.items()}
    x = jnp.asarray(rng.normal(size=(200, 6)), jnp.float32)
    net = linjax.trace(rounded, params, x)
    with pytest.warns(linjax.FoldWarning, match="no derivative"):
        stats = linjax.collect(net, params, [x], metric="identity")
    known = linjax.frontier(params, stats)
    assert linjax.corrected(net, params, known, [x], linjax.size(0.5)) is known
    net, params, known, x = coherent()
    assert linjax.corrected(net, params, known, [x], linjax.size(1.0)) is known


def test_a_single_row_tells_nothing():
    net, params, known, x = coherent()
    with pytest.raises(linjax.EvidenceError, match="two or more"):
        linjax.corrected(net, params, known, [x[:1]], linjax.size(0.5))
