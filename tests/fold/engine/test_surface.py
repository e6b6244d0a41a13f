"""Surfaces against regressions on data that were held out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linjax.fold.engine.basis import straight_basis
from linjax.fold.engine.problem import Moments, Point, Site
from linjax.fold.engine.pursuit import View, pursue, pursue_all
from linjax.fold.engine.sight import framed, gathered, sights
from linjax.fold.engine.surface import grid, surface
from tests.fold.engine.build import Layer, metric, moments


def _brute(features, h, q, rows):
    """Error on the last rows of a regression on those before."""
    mean, centre = h[:rows].mean(0), features[:rows].mean(0)
    kernel = np.linalg.lstsq(features[:rows] - centre, h[:rows] - mean, rcond=None)[0]
    # Moments are centred where they are measured.
    test, f = h[rows:] - h[rows:].mean(0), features[rows:] - features[rows:].mean(0)
    apart = test - f @ kernel
    return np.sum((apart.T @ apart / len(apart)) * q)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_units_alone(seed):
    layer = Layer(seed, m=6, rows=4000)
    q = metric(layer.rng, 6)
    site = layer.site(q, sources=False)
    found = surface(site, 0.0).errors[:, 0]
    train = np.cov(layer.h[:2000].T, bias=True)
    order = pursue(View(train, train @ np.linalg.cholesky(q))).order
    brute = [_brute(layer.h[:, order[:k]], layer.h, q, 2000) for k in range(6)]
    # The smallest directions of the target are left out.
    np.testing.assert_allclose(found[:6], np.minimum.accumulate(brute), atol=2e-4 * brute[0])


def test_linear_units_beside():
    layer = Layer(1, m=6, rows=4000)
    q = metric(layer.rng, 6)
    site = layer.site(q, sources=True)
    found = surface(site, 0.0).errors
    h, z = layer.h[:2000], layer.z[:2000]
    zc, hc = z - z.mean(0), h - h.mean(0)
    # Without units the best directions are those of a reduced-rank regression.
    target = hc @ np.linalg.cholesky(q)
    fitted = zc @ np.linalg.lstsq(zc, target, rcond=None)[0]
    right = np.linalg.svd(fitted, full_matrices=False)[2]
    for r in range(1, 5):
        kernel = np.linalg.lstsq(zc, fitted @ right[:r].T, rcond=None)[0]
        np.testing.assert_allclose(
            found[0, r], _brute(layer.z @ kernel, layer.h, q, 2000), rtol=1e-2
        )


def test_a_straight_surface():
    layer = Layer(2, m=6, p=6, rows=4000)
    q = metric(layer.rng, 6)
    site = layer.site(q, sources=False)._replace(kind="straight")
    found = surface(site, 0.0).errors[:, 0]
    data = gathered(site, 0.0, framed(site, ([0], [1])))
    basis = straight_basis(sights(site, data, 0, few=False))
    brute = [_brute(layer.h @ basis[:, :k], layer.h, q, 2000) for k in range(6)]
    np.testing.assert_allclose(found[:6], brute, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ridge=st.sampled_from([0.0, 1e-3, 0.5]),
    rows=st.sampled_from([10, 100]),
    kind=st.sampled_from(["bent", "straight", "paired", "aligned"]),
)
def test_surfaces_fall_in_both_directions(seed, ridge, rows, kind):
    layer = Layer(seed, rows=rows)
    site = layer.site(sources=kind == "bent")._replace(kind=kind)
    found = surface(site, ridge)
    assert np.isfinite(found.errors).all() and found.errors.min() >= 0.0
    assert np.diff(found.errors, axis=0).max() <= 0.0
    if kind == "bent":
        assert np.diff(found.errors, axis=1).max() <= 0.0
        assert len(found.errors) == 9 and found.errors.shape[1] <= 9
    assert found.total == found.errors.max() == found.errors[0, 0]
    np.testing.assert_array_equal(found.errors[-1], 0.0)


@pytest.mark.parametrize("m", [1, 2, 3, 17, 1000])
def test_grids_reach_from_nothing_to_all(m):
    ks = grid(m)
    assert ks[0] == 0 and ks[-1] == m and len(ks) <= 10 and np.all(np.diff(ks) > 0)


def test_a_unit_that_only_one_point_sees_is_found():
    still = np.diag([1.0, 0.0])
    views = [
        View(still, np.array([[1.0], [0.0]])),
        View(np.eye(2), np.array([[0.0], [3.0]])),
    ]
    assert pursue_all(views).tolist() == [1, 0]


@pytest.mark.parametrize("rows", [50, 200, 1300])
@pytest.mark.parametrize("moving", [0, 1, 2])
def test_units_that_move_in_one_fold_alone_are_worth_what_they_do_there(rows, moving):
    """Rare units: whichever fold has the rows that they are on in."""
    covariance = np.tile(np.eye(4), (3, 1, 1, 1))
    covariance[:, 0, 3, 3] = 0
    covariance[moving, 0, 3, 3] = 9
    moments = Moments(np.full(3, rows), np.zeros((3, 1, 4)), covariance)
    site = Site("rare", 4, 1, "bent", (Point(moments, np.eye(4)[None]),), False)
    errors = surface(site, 0.0).errors[:, 0]
    # The others vary by 1 each, the rare unit by 9 in one of three folds, which is 3 on average.
    np.testing.assert_allclose(errors[0], 3 + 3)
    assert errors[3] > 0.5


def _bordered(seed, rows=4000):
    """Units of two inputs: four that bend, and five that are always on but behind a border.

    Beside all linear units these five say the same: where the border is.
    """
    layer = Layer(seed, m=9, p=2, rows=rows)
    inside = np.repeat(layer.rng.uniform(size=(rows // 2, 1)) > 0.3, 2, axis=0)
    always = np.arange(9) > 3
    layer.x[1::2] = -layer.x[::2]  # uncorrelated with where the border is
    z = layer.x @ layer.kernel * inside
    h = np.where(always, z + 3.0 * inside, np.maximum(z, 0.0))
    point = Point(moments(np.concatenate([h, z], 1)), metric(layer.rng, 9)[None])
    return Site("bordered", 9, 1, "bent", (point,), True, layer.noise[None])


def _changed(site, order, size=0.0, seed=0):
    """The units in another order, and moments that err by rounding."""
    (point,) = site.points
    both = np.concatenate([order, site.width + order])
    covariance = point.moments.covariance[..., both[:, None], both]
    noise = np.random.default_rng(seed).normal(size=covariance.shape)
    scale = np.sqrt(np.einsum("fnii->fni", covariance))
    noise *= size * scale[..., :, None] * scale[..., None, :]
    own = Moments(
        point.moments.count,
        point.moments.mean[..., both],
        covariance + (noise + noise.swapaxes(2, 3)) / 2,
    )
    metric = point.metric[:, order[:, None], order]
    return site._replace(points=(Point(own, metric),), noise=site.noise[:, order[:, None], order])


@pytest.mark.parametrize("seed", range(8))
def test_rounding_and_the_order_of_units_decide_nothing(seed):
    """Where units tie beside all linear units, and differ beside fewer."""
    site, rng = _bordered(seed), np.random.default_rng(seed)
    whole = surface(site, 1e-3)
    for trial in range(8):
        order = np.arange(9) if trial < 4 else rng.permutation(9)
        found = surface(_changed(site, order, 1e-7, trial), 1e-3)
        columns = min(found.errors.shape[1], whole.errors.shape[1])  # edges go on
        before, after = whole.errors[:, 1:columns], found.errors[:, 1:columns]
        known = before > 1e-5 * whole.total  # what is less may be rounding itself
        ratio = after[known] / before[known]
        assert ratio.max() < 1.1 and ratio.min() > 1 / 1.1
