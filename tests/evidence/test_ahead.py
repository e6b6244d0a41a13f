"""Evidence doesn't depend on whether batches tell how many they are."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence import passing

own = importlib.import_module("linjax.evidence.collect")

RNG = np.random.default_rng(0)


def apply(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


class Anew:
    """Batches that can be started anew, and don't tell how many they are."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def network(count, rows=400):
    draws = [RNG.normal(size=shape) for shape in ((6, 16), (16, 5), (count, rows, 6))]
    kernel, out, x = (jnp.asarray(draw, jnp.float32) for draw in draws)
    params = {"in": kernel, "out": 4 * out}
    return linjax.trace(apply, params, x[0]), params, list(x)


def same(one, other):
    pairs = zip(jax.tree.leaves(one.points), jax.tree.leaves(other.points), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert one.variation == other.variation


@pytest.mark.parametrize("metric", ["softmax", "identity"])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_iterators_give_the_evidence_of_lists(count, metric):
    net, params, x = network(count)
    told = linjax.collect(net, params, x, metric=metric)
    for batches in (iter(x), (batch for batch in x), Anew(x)):
        same(linjax.collect(net, params, batches, metric=metric), told)


@pytest.mark.parametrize("limits", [None, linjax.Limits(bytes=18_000)])
def test_all_batches_are_seen_once_a_pass(limits):
    """Of many in a list those that errors are weighed on are spread, of an iterator the first."""
    net, params, x = network(14)
    told = linjax.collect(net, params, x, limits=limits)
    found = linjax.collect(net, params, Anew(x), limits=limits)
    for a, b in zip(told.points[0], found.points[0], strict=True):
        np.testing.assert_array_equal(a.scatter, b.scatter)
        np.testing.assert_allclose(a.metric, b.metric, atol=0.1 * np.abs(a.metric).max())
    np.testing.assert_allclose(found.variation, told.variation, rtol=0.1)
    assert int(found.units["in"].count) == 14 * 400


def test_no_more_is_looked_at_than_fits(monkeypatch):
    net, params, x = network(12)
    given = []

    def reading():
        for batch in x:
            given.append(1)
            yield batch

    monkeypatch.setattr(own, "AHEAD", 3 * x[0].size)
    batches, expected = own._ahead(reading(), 12)
    assert len(given) == 4 and expected == 12
    assert sum(1 for _ in batches) == 12
    same(linjax.collect(net, params, reading()), linjax.collect(net, params, x))


def test_compress_weighs_as_many_rows_as_collect(monkeypatch):
    """Its evidence is of batches with rows in between, which it makes one by one."""
    net, params, x = network(1)
    seen = []
    draws = passing.draws
    monkeypatch.setattr(passing, "draws", lambda *given: seen.append(draws(*given)) or seen[-1])
    linjax.collect(net, params, x)
    linjax.compress(net, params, x, linjax.size(0.5))
    assert len(set(seen)) == 1
