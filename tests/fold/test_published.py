"""Plans of the published rule: what they count is what a fold stores."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from linjax.chains.layers import Layer
from linjax.chains.normal import normalise
from linjax.fold.published import (
    fold_published,
    lowered,
    parameters,
    plan_threshold,
    saving,
    widths,
)
from linjax.fold.rules import PublishedSize, Threshold


def chain(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        Layer(rng.normal(size=(p, q)), rng.normal(size=q), origin=np.arange(q))
        for p, q in itertools.pairwise(sizes)
    )


def stored(layers):
    return sum(
        array.size
        for layer in normalise(layers)
        for array in (layer.kernel, layer.bias, layer.linear, layer.down)
        if array is not None
    )


SIZES = st.lists(st.integers(1, 12), min_size=3, max_size=7)


@settings(max_examples=300)
@given(SIZES, st.integers(0, 99), st.floats(0, 1), st.booleans())
def test_a_plan_counts_what_the_fold_stores(sizes, seed, rate, greedy):
    layers = chain(sizes, seed)
    rates = [np.random.default_rng(seed + i).uniform(size=q) for i, q in enumerate(sizes[1:-1])]
    for rule in (Threshold(rate, "optimal", greedy), Threshold(rate, 1, greedy)):
        counts = [int((r >= rate).sum()) for r in rates]
        plan, chosen = plan_threshold(widths(layers), counts, rule)
        folded, done = fold_published(layers, rates, rule)
        assert sorted(done) == sorted(chosen)
        assert parameters(plan) == stored(folded)
        if rule.layers == "optimal":
            assert parameters(plan) <= parameters(widths(layers))


@settings(max_examples=200)
@given(SIZES, st.integers(0, 99), st.floats(0.1, 1), st.booleans())
def test_a_size_is_met_by_the_highest_threshold_that_can(sizes, seed, fraction, greedy):
    layers = chain(sizes, seed)
    rates = [np.random.default_rng(seed + i).uniform(size=q) for i, q in enumerate(sizes[1:-1])]
    whole = parameters(widths(layers))
    rule = lowered([(layers, rates)], PublishedSize(fraction, greedy))
    folded, _ = fold_published(layers, rates, rule)
    levels = np.unique(np.concatenate([*rates, [0.0]]))[::-1]
    tried = [
        stored(fold_published(layers, rates, Threshold(float(level), "optimal", greedy))[0])
        for level in levels
    ]
    met = [size for size in tried if size <= fraction * whole]
    assert stored(folded) == (met[0] if met else min(tried))


def test_savings_count_every_feature_that_is_read():
    layers = chain((10, 8, 6, 2))
    plan = widths(layers)
    assert saving(plan, 0, 5) == (10 + 6 + 1) * 5 - 10 * 6
    after, _ = plan_threshold(plan, [8, 0, 0], Threshold(0.5, 1))
    assert after[1].reads == 10 and after[0].units == 0
    chained, _ = plan_threshold(plan, [5, 0, 0], Threshold(0.5, 1))
    assert saving(chained, 1, 4) == (3 + 10 + 2 + 1) * 4 - 13 * 2
    assert saving(chained, 1, 4, "published") == (3 + 6 + 2 + 1) * 4 - 9 * 2


@pytest.mark.parametrize(("layers", "folds"), [(3, True), (6, False), (0.4, True), (0.7, False)])
def test_layers_fold_from_a_count_or_a_share_on(layers, folds):
    rates = [np.array([1, 1, 1, 1, 0, 0, 0, 0.0])]
    _, chosen = fold_published(chain((2, 8, 30)), rates, Threshold(0.5, layers))
    assert bool(chosen) == folds


def test_greedy_takes_the_largest_saving_first():
    layers = chain((4, 6, 6, 30, 2))
    rates = [np.ones(6), np.ones(6), np.ones(30)]
    _, ordered = fold_published(layers, rates, Threshold(1.0, "optimal", greedy=True))
    plan = widths(layers)
    gains = [saving(plan, i, len(r)) for i, r in enumerate(rates)]
    assert ordered[0] == int(np.argmax(gains))
