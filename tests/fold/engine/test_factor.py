"""Kernels through few directions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linjax.fold.engine.factor import curve, factor
from linjax.fold.engine.linalg import metric_root
from tests.fold.engine.build import metric


def _kernel(seed, p, q):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, p)) @ rng.normal(size=(p, p)) + 1.0
    return np.atleast_2d(np.cov(x.T, bias=True)), x, rng.normal(size=(p, q)), metric(rng, q)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.integers(1, 7), q=st.integers(1, 7), rank=st.integers(1, 7))
def test_factors_are_the_best_there_are(seed, p, q, rank):
    covariance, x, kernel, g = _kernel(seed, p, q)
    rank = min(rank, p, q)
    down, up, change = factor(covariance, x.mean(0), kernel, g, rank)
    assert down.shape == (p, rank) and up.shape == (rank, q)
    root = metric_root(g)
    apart = (x @ (kernel - down @ up) - change) @ root
    values = np.linalg.eigvalsh(root.T @ kernel.T @ covariance @ kernel @ root)[::-1]
    left = np.sum(apart**2) / len(x)
    np.testing.assert_allclose(left, max(values[rank:].sum(), 0), atol=1e-6 * values.sum())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.integers(1, 7), q=st.integers(1, 7), few=st.integers(1, 7))
def test_errors_are_those_in_the_metric_as_it_is(seed, p, q, few):
    """What is lifted to choose directions by cost as much as 5% of the outputs."""
    covariance, x, kernel, _ = _kernel(seed, p, q)
    half = np.random.default_rng(seed).normal(size=(q, few))
    g = half @ half.T  # of few outputs
    errors = curve(covariance, covariance, kernel, g)
    assert errors.shape == (min(p, q) + 1,)
    for rank in range(len(errors)):
        down, up, change = factor(covariance, x.mean(0), kernel, g, rank)
        apart = (x @ (kernel - down @ up) - change) @ half
        left = np.sum(apart**2) / len(x)
        np.testing.assert_allclose(errors[rank], left, atol=1e-6 * errors[0])


def test_a_factor_is_a_projection():
    covariance, x, kernel, g = _kernel(0, 6, 5)
    down, up, change = factor(covariance, x.mean(0), kernel, g, 3)
    np.testing.assert_allclose(down.T @ covariance @ down, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(x.mean(0) @ down @ up + change, x.mean(0) @ kernel)
    again = down @ down.T @ covariance
    np.testing.assert_allclose(again @ again, again, atol=1e-9)


def test_full_rank_changes_nothing():
    covariance, x, kernel, g = _kernel(1, 4, 6)
    down, up, change = factor(covariance, x.mean(0), kernel, g, 4)
    np.testing.assert_allclose(down @ up, kernel, atol=1e-8)
    np.testing.assert_allclose(change, 0.0, atol=1e-8)


def test_curves_are_measured_on_other_rows():
    covariance, x, kernel, g = _kernel(2, 5, 6)
    other = np.cov(np.random.default_rng(3).normal(size=(5, 50)), bias=True)
    errors = curve(covariance, other, kernel, g)
    root = np.linalg.cholesky(g)
    for rank in range(6):
        down, up, _ = factor(covariance, x.mean(0), kernel, g, rank)
        apart = (kernel - down @ up) @ root
        brute = np.sum((other @ apart) * apart)
        assert errors[rank] <= brute + 1e-9  # made monotone
    assert errors[5] == 0.0


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_repeats_and_kernels_that_read_nothing(scale):
    each = [_kernel(s, 4, 3) for s in range(3)]
    covariance = scale * np.stack([e[0] for e in each])
    mean, kernel = np.stack([e[1].mean(0) for e in each]), np.stack([e[2] for e in each])
    g = np.stack([e[3] for e in each])
    errors = curve(covariance, covariance, kernel, g)
    apart = sum(curve(c, c, k, q) for c, k, q in zip(covariance, kernel, g, strict=True))
    np.testing.assert_allclose(errors, apart)
    down, up, change = factor(covariance, mean, kernel, g, 2)
    assert down.shape == (3, 4, 2) and up.shape == (3, 2, 3) and change.shape == (3, 3)
    assert np.isfinite(down).all() and np.isfinite(up).all()
