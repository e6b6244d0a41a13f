"""Gated layers fold by units of the product: a unit goes with its columns of all kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linjax
from linjax import baselines
from tests.arrays import placed

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")


def normal(*shape):
    scale = 1 / np.sqrt(shape[0])
    return placed(np.random.default_rng(sum(shape)).normal(size=shape) * scale)


X = normal(300, 6) * 17


def parameters():
    """A dense layer, a gated one with a dead and a duplicate unit, and a head."""
    params = {
        "a": {"w": normal(6, 16), "b": normal(16)},
        "gate": {"w": normal(16, 40)},
        "up": {"w": normal(16, 41)[:, :40], "b": normal(40)},
        "down": {"w": normal(40, 5), "b": normal(5)},
    }
    gate, up, shift = params["gate"]["w"], params["up"]["w"], params["up"]["b"]
    params["gate"]["w"] = gate.at[:, 5].set(gate[:, 4])
    params["up"]["w"] = up.at[:, 3].set(0.0).at[:, 5].set(2 * up[:, 4])
    params["up"]["b"] = shift.at[3].set(0.0).at[5].set(2 * shift[4])
    return params


def apply(params, x, act=jax.nn.silu):
    h = jax.nn.relu(x @ params["a"]["w"] + params["a"]["b"])
    up = h @ params["up"]["w"] + params["up"]["b"]
    return act(h @ params["gate"]["w"]) * up @ params["down"]["w"] + params["down"]["b"]


@pytest.fixture(scope="module")
def known():
    params = parameters()
    net = linjax.trace(apply, params, X[:1])
    return net, params, linjax.collect(net, params, [X[:150], X[150:]], metric="identity")


def distance(net, small, params):
    want = apply(params, X)
    return float(
        jnp.linalg.norm(jax.jit(net.apply)(small, X) - want) / jnp.linalg.norm(want - want.mean(0))
    )


@pytest.mark.parametrize(
    ("act", "name"),
    [
        (jax.nn.silu, "silu gate"),
        (jax.nn.gelu, "gelu (tanh) gate"),
        (jax.nn.relu, "relu gate"),
        (jax.nn.sigmoid, "sigmoid gate"),
        (lambda z: z, "product"),
    ],
)
def test_gated_layers_are_found_whatever_the_gate(act, name):
    net = linjax.trace(lambda p, x: apply(p, x, act), parameters(), X[:1])
    (chain,) = net.graph.chains
    assert [(s.activation.name, s.width) for s in chain.sites] == [("relu", 16), (name, 40)]
    assert {chain.sites[1].producer, *chain.sites[1].mates} == {"gate", "up"}
    assert not net.graph.refusals
    np.testing.assert_allclose(
        net.run(parameters(), X).outputs, net.apply(parameters(), X), rtol=1e-5
    )


def test_units_of_the_product_are_the_moments(known):
    _, params, stats = known
    h = jax.nn.relu(X @ params["a"]["w"] + params["a"]["b"])
    up = h @ params["up"]["w"] + params["up"]["b"]
    product = np.asarray(jax.nn.silu(h @ params["gate"]["w"]) * up, np.float64)
    gate = stats.units["up"]
    np.testing.assert_allclose(gate.mean_h, product.mean(0), atol=1e-5)
    assert linjax.score(params, stats)["up"].error.shape == (40,)


def test_dead_and_duplicate_units_go_for_free(known):
    net, params, stats = known
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-4))
    kept = set(report.sites["up"].kept.tolist())
    assert 3 not in kept and len(kept & {4, 5}) <= 1
    assert small["gate"]["w"].shape[1] == small["up"]["w"].shape[1] == len(kept)
    assert distance(net, small, params) < 1e-3


def test_pruning_takes_both_columns(known):
    net, params, stats = known
    small = linjax.prune(params, stats, keep=0.7, scope="layer")
    kept = np.flatnonzero(np.argsort(np.argsort(stats.rates["up"], kind="stable")) >= 12)
    first = np.flatnonzero(np.argsort(np.argsort(stats.rates["a"], kind="stable")) >= 5)
    h = jax.nn.relu(X @ params["a"]["w"] + params["a"]["b"])[:, first]
    up = h @ params["up"]["w"][first][:, kept] + params["up"]["b"][kept]
    gate = jax.nn.silu(h @ params["gate"]["w"][first][:, kept])
    want = gate * up @ params["down"]["w"][kept] + params["down"]["b"]
    np.testing.assert_allclose(jax.jit(net.apply)(small, X), want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("share", [0.6, 0.1])
def test_folding_beats_pruning_and_refit(known, share):
    net, params, stats = known
    small, report = linjax.fold_and_report(params, stats, linjax.size(share))
    best = linjax.compress(net, params, [X], linjax.size(share), metric="identity", evidence=stats)
    refitted = baselines.pruned_and_refitted(params, stats, linjax.size(share))
    assert linjax.count(small) == report.after <= share * linjax.count(params) + 41
    assert distance(net, small, params) < distance(net, refitted, params)
    assert distance(net, best, params) <= distance(net, small, params) * 1.05
    further = linjax.fold(small, linjax.collect(net, small, [X], metric="identity"),
                          linjax.size(0.7))  # fmt: skip
    assert linjax.count(further) <= linjax.count(small)
    assert np.isfinite(jax.jit(net.apply)(further, X)).all()


def test_always_on_units_before_a_gated_layer_travel_past_it(known):
    _, params, _ = known
    params = {**params, "a": {**params["a"], "b": params["a"]["b"] + 40.0}}
    net = linjax.trace(apply, params, X[:1])
    stats = linjax.collect(net, params, [X])
    small = linjax.fold(params, stats, linjax.threshold(1.0, layers=1))
    assert "a" not in small and small["up"]["w"].shape == small["gate"]["w"].shape == (6, 40)
    assert distance(net, small, params) < 1e-4


def test_saving_loading_and_optimiser_state(known, tmp_path):
    net, params, stats = known
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.5))
    linjax.save(tmp_path / "gated.linjax", net, small)
    again, loaded = linjax.load(tmp_path / "gated.linjax")
    np.testing.assert_allclose(
        jax.jit(again.apply)(loaded, X), jax.jit(net.apply)(small, X), rtol=1e-5, atol=1e-5
    )
    adam = optax.adam(1e-3)
    state = adam.init(params)
    state = (state[0]._replace(mu=jax.tree.map(lambda w: w + 1.0, params)), *state[1:])
    carried = linjax.carry_over(adam, state, params, small, report)
    kept = report.sites["up"].kept
    np.testing.assert_array_equal(carried[0].mu["up"]["b"], params["up"]["b"][kept] + 1.0)
    module = linjax.to_nnx(net, small)
    np.testing.assert_allclose(module(X), jax.jit(net.apply)(small, X), rtol=1e-5, atol=1e-5)


def test_widths_that_do_not_fit_are_named(known):
    net, params, _ = known
    wrong = {**params, "up": {"w": params["up"]["w"][:, :7], "b": params["up"]["b"][:7]}}
    with pytest.raises(linjax.StructureError, match="up"):
        net.apply(wrong, X)


def test_what_only_looks_gated_is_in_no_chain():
    a, b, c = normal(6, 8), normal(6, 9)[:, :8], normal(8, 3)
    params = {"a": a, "b": b, "c": c, "c2": c + 1}
    for apply in (
        lambda p, x: (jax.nn.relu(x @ p["a"]) * (jnp.sin(x) @ p["b"])) @ p["c"],
        lambda p, x: (lambda z: (jax.nn.relu(z) @ p["c"], z @ p["c2"]))(x @ p["a"]),
        lambda p, x: (jax.nn.relu(x @ p["a"]) @ p["c"], jax.nn.relu(x @ p["a"]) @ p["c2"]),
    ):
        net = linjax.trace(apply, params, X[:1])
        assert not net.graph.chains and [s.name for s in net.network.sites] == ["a"]
    net = linjax.trace(
        lambda p, x: (lambda z: (jax.nn.relu(z) @ p["c"], jax.nn.relu(z) @ p["c2"]))(x @ p["a"]),
        params, X[:1],
    )  # fmt: skip
    assert [s.consumers for s in net.graph.sites] == [("c", "c2")]
