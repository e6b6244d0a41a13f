"""Verdicts against exact brute force on small networks, with margins meant to trip rounding."""

import itertools
import time

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import linjax
from linjax.chains.layers import Layer
from linjax.errors import EvidenceError
from linjax.evidence.bounds import How, Verdict
from linjax.evidence.certify.chain import METHODS, certify_layers
from linjax.evidence.certify.check import check_layers
from tests.evidence.oracle import (
    extremes_by_patterns,
    extremes_on_interval,
    extremes_on_square,
)

RELU = (0.0, 1.0)
LEAKY = (0.125, 1.0)
many = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@st.composite
def networks(draw, widths):
    """ReLU chains with ties, duplicated units, zero columns, and huge and tiny weights."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grain = draw(st.sampled_from([None, 1.0, 0.25]))
    layers = []
    for reads, units in itertools.pairwise(widths):
        kernel, bias = rng.normal(size=(reads, units)), rng.normal(size=units)
        if grain is not None:
            kernel, bias = (np.round(2 * a / grain) * grain for a in (kernel, bias))
        scale = 10.0 ** rng.integers(-12, 13, units) * draw(st.booleans())
        scale = np.where(scale == 0, 1.0, scale)
        kernel, bias = kernel * scale, bias * scale
        if draw(st.booleans()):
            kernel[:, 0], bias[0] = kernel[:, -1], bias[-1]
        if draw(st.booleans()):
            kernel[:, -1] = 0.0
        dtype = draw(st.sampled_from([np.float32, np.float64]))
        layers.append(Layer(kernel.astype(dtype), bias.astype(dtype)))
    return tuple(layers)


@st.composite
def touching(draw, widths, extremes):
    """A network in which units of a site are shifted to within a hair of zero."""
    layers = draw(networks(widths))
    site = draw(st.integers(0, len(layers) - 2))
    side = draw(st.integers(0, 1))
    gap = draw(st.sampled_from([0.0, 1e-9, -1e-9, 1e-12, -1e-12, 1e-6, -1e-6]))
    extreme = np.array([float(z) for z in extremes(layers)[site][side]])
    bias = (layers[site].bias - extreme + gap).astype(layers[site].bias.dtype)
    return (*layers[:site], layers[site]._replace(bias=bias), *layers[site + 1 :])


def agrees(sites, oracle):
    """Asserts that every verdict and every bound is true; returns how many are undecided."""
    missing = 0
    for site, (low, high) in zip(sites, oracle, strict=True):
        assert all(claim <= true for claim, true in zip(site.lower, low, strict=True))
        assert all(claim >= true for claim, true in zip(site.upper, high, strict=True))
        for verdict, least, most in zip(site.verdict, low, high, strict=True):
            if verdict == Verdict.ACTIVE:
                assert least >= 0
            elif verdict == Verdict.INACTIVE:
                assert most <= 0
            elif verdict == Verdict.UNSTABLE:
                assert least < 0 < most
            else:
                missing += 1
    return missing


def extremes_1d(layers):
    return extremes_on_interval(layers, [RELU] * (len(layers) - 1), -1.0, 1.0)


def extremes_2d(layers):
    return extremes_on_square(layers, [RELU] * 2, [0.0, -1.0], [1.0, 1.0])


@many
@given(networks((1, 4, 4, 4, 1)))
def test_three_sites_on_an_interval(layers):
    sites = certify_layers(layers, [RELU] * 3, -1.0, 1.0)
    agrees(sites, extremes_1d(layers))
    assert all(check.ok for check in check_layers(layers, [RELU] * 3, -1.0, 1.0, sites))


@many
@given(touching((1, 4, 4, 4, 1), extremes_1d))
def test_three_sites_with_tiny_margins(layers):
    sites = certify_layers(layers, [RELU] * 3, -1.0, 1.0)
    agrees(sites, extremes_1d(layers))
    assert all(check.ok for check in check_layers(layers, [RELU] * 3, -1.0, 1.0, sites))


@many
@given(touching((2, 5, 4, 1), extremes_2d))
def test_two_sites_on_a_square(layers):
    box = np.array([0.0, -1.0]), np.array([1.0, 1.0])
    sites = certify_layers(layers, [RELU] * 2, *box)
    agrees(sites, extremes_2d(layers))
    assert not (sites[0].verdict == Verdict.UNDECIDED).any()  # closed form, exact at ties
    assert all(check.ok for check in check_layers(layers, [RELU] * 2, *box, sites))


@many
@given(touching((1, 4, 4, 4, 1), extremes_1d))
def test_nothing_with_a_margin_stays_undecided(layers):
    """Units of moderate size are decided unless they touch zero to rounding."""
    sizes = [np.abs(a[a != 0]) for layer in layers for a in (layer.kernel, layer.bias)]
    if any(len(s) and (s.min() < 1e-3 or s.max() > 1e3) for s in sizes):
        return
    sites = certify_layers(layers, [RELU] * 3, -1.0, 1.0)
    for site, (low, high) in zip(sites, extremes_1d(layers), strict=True):
        for unit in np.flatnonzero(site.verdict == Verdict.UNDECIDED):
            assert min(abs(low[unit]), abs(high[unit])) < 1e-10 * max(1, high[unit] - low[unit])


@settings(many, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_three_inputs_against_all_patterns_of_signs(seed):
    rng = np.random.default_rng(seed)
    widths = (3, 4, 3, 3, 1)
    layers = tuple(
        Layer(rng.normal(size=(a, b)), 0.5 * rng.normal(size=b))
        for a, b in itertools.pairwise(widths)
    )
    sites = certify_layers(layers, [RELU] * 3, -1.0, 1.0)
    loose = [
        (low - 1e-6, high + 1e-6)
        for low, high in extremes_by_patterns(layers, [-1.0] * 3, [1.0] * 3)
    ]
    for site, (low, high) in zip(sites, loose, strict=True):
        assert (site.lower <= low + 2e-6).all()
        assert (site.upper >= high - 2e-6).all()
        expected = np.select([low >= 0, high <= 0], [Verdict.ACTIVE, Verdict.INACTIVE], 3)
        clear = np.minimum(np.abs(low), np.abs(high)) > 1e-5
        np.testing.assert_array_equal(site.verdict[clear], expected[clear])


@many
@given(st.integers(0, 2**32 - 1), st.sampled_from([LEAKY, (-0.5, 2.0), (1.0, 0.5)]))
def test_other_slopes_and_folded_layers(seed, pair):
    """Bottlenecks, linear units and residual paths, on an interval of one input."""
    rng = np.random.default_rng(seed)
    layers = (
        Layer(rng.normal(size=(1, 3)), rng.normal(size=3), rng.normal(size=(1, 2)), residual=True),
        Layer(
            rng.normal(size=(4, 3)), rng.normal(size=3), down=rng.normal(size=(6, 4)), residual=True
        ),
        Layer(rng.normal(size=(7, 2)), rng.normal(size=2)),
        Layer(np.ones((2, 1)), np.zeros(1)),
    )
    slopes = [pair, RELU, (np.array([0.25, 0.0]), 1.0)]
    sites = certify_layers(layers, slopes, -1.0, 1.0)
    oracle = extremes_on_interval(layers, slopes, -1.0, 1.0)
    assert agrees(sites, oracle) == 0
    assert all(check.ok for check in check_layers(layers, slopes, -1.0, 1.0, sites))


@pytest.mark.parametrize("method", ["interval", "crown", "alpha-crown", "milp"])
def test_other_methods_are_sound(method):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        layers = tuple(
            Layer(rng.normal(size=(a, b)), rng.normal(size=b))
            for a, b in itertools.pairwise((1, 4, 4, 4, 1))
        )
        sites = certify_layers(layers, [RELU] * 3, -1.0, 1.0, method=method)
        missing = agrees(sites, extremes_1d(layers))
        assert missing == 0 or method != "milp"
        checks = check_layers(layers, [RELU] * 3, -1.0, 1.0, sites)
        assert method == "milp" or all(check.ok for check in checks)


def small():
    """A network with units that only branching decides, of widths compiled already."""
    rng = np.random.default_rng(18)
    widths = (2, 5, 4, 1)
    return tuple(
        Layer(rng.normal(size=(a, b)), 0.3 * rng.normal(size=b))
        for a, b in itertools.pairwise(widths)
    )


def test_time_limit_and_interrupt_leave_units_undecided():
    layers, told = small(), []
    sites = certify_layers(layers, [RELU] * 2, -1.0, 1.0, time_limit=0.0, progress=told.append)
    assert len(told) == 2
    assert any((site.verdict == Verdict.UNDECIDED).any() for site in sites)
    assert all(check.ok for check in check_layers(layers, [RELU] * 2, -1.0, 1.0, sites))

    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # outside the search it is the caller's
        certify_layers(layers, [RELU] * 2, -1.0, 1.0, progress=interrupt)


def test_time_limit_is_met_within_a_batch():
    """Each stage alone would take many times as long; compiling is done by the first run."""
    rng = np.random.default_rng(0)
    layers = tuple(
        Layer(np.sqrt(2 / a) * rng.normal(size=(a, b)), 2 * rng.normal(size=b))
        for a, b in itertools.pairwise((100, 250, 250, 250, 1))
    )
    for limit in (0.2, 0.2, 1.0):
        start = time.monotonic()
        sites = certify_layers(layers, [RELU] * 3, 0.0, 1.0, time_limit=limit)
        taken = time.monotonic() - start
        assert (sites[2].verdict == Verdict.UNDECIDED).any()
    assert taken < limit + 2


def test_interrupt_keeps_what_has_been_found(monkeypatch):
    def stage(problem, state, deadline):
        raise KeyboardInterrupt

    layers = small()
    monkeypatch.setitem(METHODS, "auto", (*METHODS["crown"], stage))
    sites = certify_layers(layers, [RELU] * 2, -1.0, 1.0)
    assert (sites[0].how == How.WITNESS).any()
    assert all(check.ok for check in check_layers(layers, [RELU] * 2, -1.0, 1.0, sites))


def test_data_give_witnesses():
    layers = small()
    data = np.random.default_rng(0).uniform(-3, 3, (500, 2))  # clipped to the box
    sites = certify_layers(layers, [RELU] * 2, -1.0, 1.0, data=data, method="interval")
    assert not any((site.how == How.WITNESS).any() for site in sites)
    sites = certify_layers(layers, [RELU] * 2, -1.0, 1.0, data=data, method="crown")
    assert any((site.how == How.WITNESS).any() for site in sites)
    assert all((abs(site.points) <= 1).all() for site in sites)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (0.5, 0.0, "lower 0.5 is above upper 0.0 at input 0"),
        (np.nan, 1.0, "lower: expected numbers, found NaN"),
        (np.zeros(3), 1.0, r"lower: expected shape \(2,\), found \(3,\)"),
        (0.0, np.inf, "input 0 is unbounded"),
    ],
)
def test_bad_boxes_are_refused(lower, upper, message):
    with pytest.raises(EvidenceError, match=message):
        certify_layers(small(), [RELU] * 2, lower, upper)


def test_bad_networks_are_refused():
    layers = small()
    with pytest.raises(EvidenceError, match="slopes: expected a pair for each of 2 sites"):
        certify_layers(layers, [RELU], 0.0, 1.0)
    broken = (layers[0]._replace(bias=np.full(5, np.inf)), *layers[1:])
    with pytest.raises(EvidenceError, match="layer 0, bias: expected finite numbers"):
        certify_layers(broken, [RELU] * 2, 0.0, 1.0)
    with pytest.raises(EvidenceError, match="method: expected one of"):
        certify_layers(layers, [RELU] * 2, 0.0, 1.0, method="magic")


def test_inputs_that_nothing_reads_may_be_unbounded():
    layers = small()
    kernel = np.concatenate([layers[0].kernel, np.zeros((1, 5))])
    wider = (layers[0]._replace(kernel=kernel), *layers[1:])
    upper = np.array([1.0, 1.0, np.inf])
    sites = certify_layers(wider, [RELU] * 2, -upper, upper)
    plain = certify_layers(layers, [RELU] * 2, -1.0, 1.0)
    for site, other in zip(sites, plain, strict=True):
        np.testing.assert_array_equal(site.verdict, other.verdict)
    assert all(check.ok for check in check_layers(wider, [RELU] * 2, -upper, upper, sites))


@pytest.mark.parametrize("asked", [None, False, True, "function"])
def test_progress_is_printed_or_told_or_neither(capsys, asked):
    rng, told = np.random.default_rng(0), []
    params = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in {"in": (3, 6), "mid": (6, 5), "out": (5, 2)}.items()
    }

    def apply(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["in"]) @ p["mid"]) @ p["out"]

    net = linjax.trace(apply, params, np.ones((1, 3), np.float32))
    progress = told.append if asked == "function" else asked
    linjax.certify(net, params, -1.0, 1.0, time_limit=0.0, progress=progress)
    printed = capsys.readouterr().out
    assert bool(printed) == (asked is True) and bool(told) == (asked == "function")
    assert "undecided" in printed + "".join(told) or not asked
