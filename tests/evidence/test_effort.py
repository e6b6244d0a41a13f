"""Sensitivities of networks that they would take too long of."""

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.evidence import effort
from linjax.evidence.sensitivity import cotangents, metric_sums
from linjax.program import pytree
from tests.evidence.certainty import probabilities


def conv(x, w, stride=1):
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def apply(p, x):
    h = jax.nn.relu(conv(x, p["stem"]))
    return jax.nn.relu(conv(h, p["deep"], 2)).mean((1, 2)) @ p["head"]


def network(rows, side, classes=12):
    key = iter(jax.random.split(jax.random.key(0), 4))
    params = {
        "stem": jax.random.normal(next(key), (3, 3, 2, 8)) / 4,
        "deep": jax.random.normal(next(key), (3, 3, 8, 8)) / 8,
        "head": jax.random.normal(next(key), (8, classes)),
    }
    x = jax.random.normal(next(key), (rows, side, side, 2))
    return linjax.trace(apply, params, x), params, x


def test_costs_are_those_of_the_products():
    net, _, _ = network(rows=4, side=10)
    own = effort.costs(net.network)
    by_hand = 2 * (100 * 18 * 8 + 25 * 72 * 8 + 8 * 12)
    assert own.forward == by_hand
    # Two sites, the kernels' results, and those of the last one, each at its places.
    assert sorted(own.widths) == sorted([(100, 8), (1, 8), (100, 8), (25, 8), (1, 12)])
    assert own.entries == 100 * 8 + 8 + 100 * 8 + 25 * 8 + 12


def test_small_networks_are_measured_with_everything():
    net, _, _ = network(rows=24, side=10)
    assert effort.effort(net.network, 24, parts=12) == (None, effort.PROBES, 24, 24)


def test_less_is_spent_where_all_is_too_much(monkeypatch):
    net, _, _ = network(rows=24, side=40)
    once = [
        effort._once(effort.costs(net.network), *way) * 24
        for way in ((None, 8), (64, 8), (64, 4), (64, 2))
    ]
    assert once == sorted(once, reverse=True)
    for work, want in zip((*once, once[-1] / 2), ((None, 8), (64, 8), (64, 4), (64, 2), (64, 2)),
                          strict=True):  # fmt: skip
        monkeypatch.setattr(effort, "WORK", 1.001 * work)
        found = effort.effort(net.network, 24)
        assert (found.places, found.probes) == want
        assert found.examples == 24  # fewer than FEWEST aren't cut
    assert effort.effort(net.network, 96).examples == effort.FEWEST
    monkeypatch.setattr(effort, "BYTES", 1 << 20)
    assert 0 < effort.effort(net.network, 24).together < 24


def test_some_places_of_each_example_stand_for_all():
    net, params, x = network(rows=40, side=24)
    flat, seed = pytree.flatten(params), (0, 0)
    whole, fewer = (
        metric_sums(net.network, flat, [x], seed, "softmax", None, places, 8)
        for places in (None, 64)
    )
    for (gram, total), (own, also) in zip(whole[0], fewer[0], strict=True):
        assert total == also
        scale = np.trace(gram[0]) * 0.2
        assert np.abs(gram - own).max() < scale
        assert abs(np.trace(gram[0]) - np.trace(own[0])) < scale
    # Where there are no more places than that, nothing is left out.
    np.testing.assert_allclose(whole[0][1][0], fewer[0][1][0], rtol=1e-6)


def test_rows_that_weigh_nothing_leave_no_trace_in_some_places():
    net, params, x = network(rows=6, side=24)
    flat, seed = pytree.flatten(params), (0, 0)
    weights = jnp.array([1, 1, 0, 1, 0, 1])
    found = [
        metric_sums(net.network, flat, [x.at[2].set(v)], seed, "softmax", weights, 64, 8)
        for v in (0.0, 1e3)
    ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_few_signs_average_to_the_metric():
    y = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4)), jnp.float32)
    turns = jnp.arange(4000)
    seeds = jax.vmap(lambda n: cotangents(y, (n,), "softmax", 2))(turns).reshape(-1, 2, 4)
    found = np.einsum("npi,npj->ij", seeds, seeds) / len(turns)
    p = probabilities(y)[0]
    np.testing.assert_allclose(found, np.diag(p) - np.outer(p, p), atol=0.02)


def test_chunks_add_up(monkeypatch):
    net, params, x = network(rows=32, side=12, classes=4)  # few classes: nothing is random
    whole = linjax.collect(net, params, [x])
    monkeypatch.setattr(effort, "BYTES", 1 << 20)
    assert effort.effort(net.network, 32).together < 32
    parts = linjax.collect(net, params, [x])
    for a, b in zip(jax.tree.leaves(whole.points), jax.tree.leaves(parts.points), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * np.abs(a).max())
