"""Activations read by several affine maps of which some have units themselves."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.baselines import magnitude
from tests.fold.affine import dense, distance, layer

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
relu = jax.nn.relu


def actor_critic(dtype, gated=False):
    """A trunk, a head of one hidden layer (or a gated one), one of two, and a plain one."""
    rng = np.random.default_rng(0)
    sizes = {
        "in": (6, 20), "trunk": (20, 24), "act": (24, 16), "act_up": (24, 16), "act_out": (16, 4),
        "val": (24, 12), "val_2": (12, 10), "val_out": (10, 1), "aux": (24, 2),
    }  # fmt: skip
    params = {name: layer(rng, *shape, dtype) for name, shape in sizes.items()}

    def plant(name, on, off):
        bias = params[name]["b"]
        params[name]["b"] = bias.at[:on].add(30.0).at[on : on + off].add(-60.0)

    plant("trunk", 5, 4)
    if not gated:
        plant("act", 10, 3)
        del params["act_up"]
    plant("val", 8, 2)

    def apply(params, x):
        h = relu(dense(params["trunk"], relu(dense(params["in"], x))))
        z = dense(params["act"], h)
        act = jax.nn.silu(z) * dense(params["act_up"], h) if gated else relu(z)
        val = relu(dense(params["val_2"], relu(dense(params["val"], h))))
        heads = [dense(params[k], v) for k, v in (("act_out", act), ("val_out", val), ("aux", h))]
        return jnp.concatenate(heads, axis=-1)

    x = jnp.asarray(rng.uniform(-1, 1, (1200, 6)), dtype)
    return apply, params, x


@pytest.mark.parametrize("gated", [False, True])
def test_every_branch_is_a_chain(gated):
    apply, params, x = actor_critic(np.float32, gated)
    graph = linjax.trace(apply, params, x).graph
    assert [chain.layers[0] for chain in graph.chains] == [("in",), ("act",), ("val",)]
    trunk = graph.chains[0]
    assert set(trunk.layers[-1]) == {"act", "val", "aux"} | ({"act_up"} if gated else set())
    assert graph.branches(trunk) == graph.chains[1:]
    assert all(graph.trunks(chain) == (trunk,) for chain in graph.chains[1:])


def test_exact_modes_preserve_the_outputs(dtype):
    apply, params, x = actor_critic(dtype)
    net, want = linjax.trace(apply, params, x), jax.jit(apply)(params, x)
    close = 3e-5 if dtype is np.float32 else 1e-12
    assert distance(net.run(params, x).outputs, want) < close
    stats = linjax.collect(net, params, [x], second_moments=False)
    for rule in (linjax.threshold(1.0), linjax.threshold(1.0, layers=1)):
        folded = linjax.fold(params, stats, rule)
        assert linjax.count(folded) < linjax.count(params)
        assert distance(jax.jit(net.apply)(folded, x), want) < close
    bounds = linjax.certify(net, params, -1.0, 1.0)
    folded, report = linjax.fold_and_report(params, bounds)
    assert len(report.sites["trunk"].kept) < 24
    assert distance(jax.jit(net.apply)(folded, x), want) < close
    doubled = {**params, "trunk": jax.tree.map(lambda w: w.at[..., 1].set(2 * w[..., 0]),
                                               params["trunk"])}  # fmt: skip
    lumped = linjax.lump(net, doubled)
    assert lumped["trunk"]["b"].shape == (23,)
    assert distance(jax.jit(net.apply)(lumped, x), jax.jit(apply)(doubled, x)) < close


@pytest.mark.parametrize(
    ("dtype", "gated"), [(np.float32, True), (np.float64, False)], indirect=["dtype"]
)
def test_sizes_are_met_and_measured(dtype, gated):
    apply, params, x = actor_critic(dtype, gated)
    net, want = linjax.trace(apply, params, x), jax.jit(apply)(params, x)
    known = linjax.frontier(params, linjax.collect(net, params, [x], metric="identity"))
    errors = []
    for share in (0.8, 0.5, 0.25, 0.1, 0.02):
        folded, report = linjax.fold_and_report(params, known, linjax.size(share))
        assert linjax.count(folded) <= share * linjax.count(params)
        # parameters of branches are counted once, and added biases foreseen; what normal form
        # still saves is all that a plan may overcount
        plan = known.plan(linjax.size(share))
        added = known.biases("parameters", plan.state)
        assert 0.9 * plan.cost <= linjax.count(folded) <= plan.cost + added
        errors.append(
            float(jnp.linalg.norm(jax.jit(net.apply)(folded, x) - want))
            / float(jnp.linalg.norm(want - want.mean(0)))
        )
        assert errors[-1] <= 2 * report.predicted + 1e-4
    assert errors[1] < 0.05 and all(a <= b + 1e-6 for a, b in itertools.pairwise(errors))
    exact = linjax.fold(params, known, linjax.tolerance(1e-3))
    assert linjax.count(exact) < 0.8 * linjax.count(params)
    assert distance(jax.jit(net.apply)(exact, x), want) < 1e-2


@pytest.mark.parametrize("dtype", [np.float64], indirect=True)
def test_what_a_fold_returns_folds_again(dtype):
    apply, params, x = actor_critic(dtype)
    net, want = linjax.trace(apply, params, x), jax.jit(apply)(params, x)
    for rule in (linjax.threshold(1.0, layers=1), linjax.size(0.02)):
        stats = linjax.collect(net, params, [x], metric="identity")
        small = linjax.fold(params, stats, rule)
        again = linjax.fold(small, linjax.collect(net, small, [x], metric="identity"),
                            linjax.tolerance(0.02))  # fmt: skip
        assert linjax.count(again) <= linjax.count(small)
        apart = jax.jit(net.apply)(again, x) - jax.jit(net.apply)(small, x)
        assert float(jnp.linalg.norm(apart)) < 0.03 * float(jnp.linalg.norm(want - want.mean(0)))
        assert (
            distance(jax.jit(net.apply)(linjax.lump(net, small), x), jax.jit(net.apply)(small, x))
            < 1e-4
        )


def test_compress_and_rivals():
    apply, params, x = actor_critic(np.float32)
    net = linjax.trace(apply, params, x)
    small = linjax.compress(net, params, [x], linjax.size(0.3), metric="identity", joint=False)
    assert linjax.count(small) <= 0.3 * linjax.count(params)
    assert linjax.compare(net, params, small, [x], metric="identity").error < 0.1
    pruned = magnitude(params, linjax.collect(net, params, [x]), linjax.size(0.5))
    assert linjax.count(pruned) <= 0.5 * linjax.count(params)
    assert jax.jit(net.apply)(pruned, x).shape == jax.jit(net.apply)(params, x).shape


def test_saved_and_loaded(tmp_path):
    apply, params, x = actor_critic(np.float32)
    net = linjax.trace(apply, params, x)
    small = linjax.fold(params, linjax.collect(net, params, [x]), linjax.size(0.3))
    linjax.save(tmp_path / "net", net, small)
    other, back = linjax.load(tmp_path / "net")
    np.testing.assert_array_equal(jax.jit(other.apply)(back, x), jax.jit(net.apply)(small, x))


def test_layers_that_have_vanished_still_pass_on_what_counts():
    """A site in front of a vanished layer is priced by whoever reads its features now."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        sizes = [(4, 12), (12, 10), (10, 8), (8, 3)]
        params = [layer(rng, *shape, np.float64) for shape in sizes]
        params[2]["b"] = params[2]["b"] + 50.0

        def apply(params, x):
            for part in params[:-1]:
                x = relu(dense(part, x))
            return dense(params[-1], x)

        x = jnp.asarray(rng.normal(size=(500, 4)))
        net = linjax.trace(apply, params, x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stats = linjax.collect(net, params, [x], metric="identity")
            small = linjax.fold(params, stats, linjax.threshold(1.0))
            again = linjax.collect(net, small, [x], metric="identity")
            smaller = linjax.fold(small, again, linjax.tolerance(0.01))
        assert linjax.compare(net, small, smaller, [x], metric="identity").error < 0.02
