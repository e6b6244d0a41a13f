"""Exact rewriting keeps the function wherever the verdicts hold, and is no larger."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linjax.chains.layers import Layer
from linjax.errors import LinjaxError
from linjax.evidence.bounds import Verdict
from linjax.fold.lossless.exact import DEFAULT, PUBLISHED, RULES, fold_exact
from tests.fold.chains import forward, random_chain, size
from tests.reference import certified

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=200, deadline=None, derandomize=True)
pairs = st.sampled_from([(0.0, 1.0), (0.1, 1.0), (-0.5, 2.0), (1.0, 1.0)])


def observed(layers, slopes, x):
    """Verdicts that hold on these very inputs, and biases that make many units stable."""
    shifted = list(layers)
    rng = np.random.default_rng(len(x))
    for index in range(len(layers) - 1):
        z = forward(tuple(shifted), slopes, x)[1][index]
        ends = [np.zeros(z.shape[1]), -z.min(axis=0) + 0.1, -z.max(axis=0) - 0.1]
        pick = rng.integers(0, 3, z.shape[1])
        layer = shifted[index]
        shifted[index] = layer._replace(bias=layer.bias + np.choose(pick, ends))
    layers = tuple(shifted)
    seen = forward(layers, slopes, x)[1]
    verdicts = [
        np.select(
            [z.max(axis=0) <= 0, z.min(axis=0) >= 0],
            [Verdict.INACTIVE, Verdict.ACTIVE],
            Verdict.UNSTABLE,
        )
        for z in seen
    ]
    return layers, verdicts


def same(layers, folded, slopes, x, tolerance=1e-10):
    before, after = forward(layers, slopes, x)[0], forward(folded, slopes, x)[0]
    np.testing.assert_allclose(after, before, rtol=0, atol=tolerance * np.abs(before).max())


@quick
@given(seeds, pairs, st.sampled_from([DEFAULT, PUBLISHED, RULES, ("inactive",), ("dependent",)]))
def test_keeps_the_function_where_verdicts_hold(seed, pair, rules):
    rng = np.random.default_rng(seed)
    layers = random_chain(rng)
    slopes = [pair] * (len(layers) - 1)
    x = rng.normal(size=(40, layers[0].reads))
    layers, verdicts = observed(layers, slopes, x)
    folded, reports = fold_exact(layers, verdicts, slopes, rules)
    same(layers, folded, slopes, x)
    for layer, report in zip(folded, reports, strict=False):
        assert layer.units == report.units - report.removed
    if "fold_layer" not in rules:
        assert size(folded) <= size(layers)
    if "linear" in rules:
        assert size(folded) <= size(fold_exact(layers, verdicts, slopes, ("inactive",))[0])


@quick
@given(seeds)
def test_nothing_stable_nothing_done(seed):
    layers = random_chain(np.random.default_rng(seed), plain=True)
    verdicts = [np.full(layer.units, Verdict.UNSTABLE) for layer in layers[:-1]]
    folded, _ = fold_exact(layers, verdicts, [(0.0, 1.0)] * len(verdicts))
    for old, new in zip(layers, folded, strict=True):
        np.testing.assert_array_equal(old.kernel, new.kernel)
        np.testing.assert_array_equal(old.bias, new.bias)


@quick
@given(seeds, st.integers(1, 3))
def test_rank_of_stable_units(seed, rank):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(9, rank)) @ rng.normal(size=(rank, 12))
    layers = (Layer(kernel, np.full(12, 50.0)), Layer(rng.normal(size=(12, 9)), np.zeros(9)))
    verdicts, slopes = [np.full(12, Verdict.ACTIVE)], [(0.0, 1.0)]
    x = rng.uniform(-1, 1, (30, 9))
    folded, (report,) = fold_exact(layers, verdicts, slopes)
    assert (report.linear, report.removed) == (rank, 12)
    same(layers, folded, slopes, x)
    folded, (report,) = fold_exact(layers, verdicts, slopes, ("dependent",))
    assert 12 - report.removed == rank
    same(layers, folded, slopes, x)


@pytest.mark.parametrize("gap", [1e-9, 1e-6])
def test_small_but_real_directions_are_kept(gap):
    rng = np.random.default_rng(0)
    kernel = np.outer(rng.normal(size=6), rng.normal(size=5)) + gap * rng.normal(size=(6, 5))
    layers = (Layer(kernel, np.full(5, 9.0)), Layer(rng.normal(size=(5, 30)), np.zeros(30)))
    verdicts, slopes = [np.full(5, Verdict.ACTIVE)], [(0.0, 1.0)]
    x = rng.uniform(-1, 1, (20, 6))
    same(layers, fold_exact(layers, verdicts, slopes, RULES)[0], slopes, x, 1e-13)


def test_network_collapses_to_its_constant():
    rng = np.random.default_rng(0)
    layers = random_chain(rng, plain=True)
    slopes = [(0.0, 1.0)] * 3
    verdicts = [np.full(layer.units, Verdict.UNSTABLE) for layer in layers[:-1]]
    layers = (*layers[:2], layers[2]._replace(bias=np.full(layers[2].units, -1e3)), layers[3])
    verdicts[2] = np.full(layers[2].units, Verdict.INACTIVE)
    for rules in (DEFAULT, PUBLISHED):
        folded, _ = fold_exact(layers, verdicts, slopes, rules)
        assert [layer.features for layer in folded[:-1]] == [0, 0, 0]
        assert size(folded) == layers[-1].units
        same(layers, folded, slopes, rng.normal(size=(5, layers[0].reads)))


@quick
@given(seeds)
def test_folding_the_folded_again(seed):
    rng = np.random.default_rng(seed)
    layers = random_chain(rng, plain=True)
    slopes = [(0.0, 1.0)] * 3
    x = rng.normal(size=(40, layers[0].reads))
    layers, verdicts = observed(layers, slopes, x)
    once, _ = fold_exact(layers, verdicts, slopes)
    left = [v[layer.origin] for v, layer in zip(verdicts, once, strict=False)]
    twice, _ = fold_exact(once, left, slopes)
    assert size(twice) <= size(once)
    same(layers, twice, slopes, x)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("100-100_0.0005_1", 0.45),
        ("25-25_0.001_1", 0.28),
        pytest.param("400-400_0.0002_1", 0.50, marks=pytest.mark.slow),
    ],
)
def test_reference_networks(shared, name, least):
    layers, sites = certified(shared, name)
    slopes = [(0.0, 1.0)] * 2
    assert not any((site.verdict == Verdict.UNDECIDED).any() for site in sites)
    verdicts = [site.verdict for site in sites]
    folded, _ = fold_exact(layers, verdicts, slopes)
    published, _ = fold_exact(layers, verdicts, slopes, PUBLISHED)
    assert size(folded) <= min(size(published), (1 - least) * size(layers))
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(2000, 784))
    x[:1000] = x[:1000] < rng.uniform(size=(1000, 1))
    x = np.concatenate([x, *(site.points for site in sites)])
    same(layers, folded, slopes, x)
    before, after = forward(layers, slopes, x)[0], forward(folded, slopes, x)[0]
    np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))


def test_bad_input_is_refused():
    layers = random_chain(np.random.default_rng(0), plain=True)
    verdicts = [np.zeros(layer.units, int) for layer in layers[:-1]]
    slopes = [(0.0, 1.0)] * 3
    with pytest.raises(LinjaxError, match="rules"):
        fold_exact(layers, verdicts, slopes, ("magic",))
    with pytest.raises(LinjaxError, match="site 2"):
        fold_exact(layers, [*verdicts[:2], verdicts[2][:1]], slopes)
