"""Verdicts against exact brute force on small networks, with margins meant to trip rounding."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linjax.errors import EvidenceError
from linjax.evidence.bounds import How, Verdict
from linjax.evidence.certify.chain import certify_layers
from linjax.evidence.certify.check import check_layers
from linjax.graph.layers import Layer
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
    for reads, units in zip(widths[:-1], widths[1:], strict=True):
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


def agrees(sites, oracle, exhaustive=True):
    """Every verdict is true, and every bound; with ``exhaustive``, few are missing."""
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
