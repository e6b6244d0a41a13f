"""Folds of one site at the edges: few rows, constants, unlike sizes, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linjax.fold.engine.choose import choose
from linjax.fold.engine.linalg import solve
from linjax.fold.engine.problem import Moments, Point, Site
from linjax.fold.engine.surface import surface
from tests.fold.engine.build import KINDS, Layer, decoded, metric, moments


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [2, 5, 20])
def test_few_rows(kind, rows):
    layer = Layer(16, m=12, rows=rows)
    site = layer.site(sources=kind == "bent")._replace(kind=kind)
    found = surface(site, 1e-2)
    assert np.isfinite(found.errors).all()
    for k in (0, 1, 7, 12):
        choice = choose(site, k, 2 if kind == "bent" else 0, 1e-2)
        assert all(np.isfinite(array).all() for array in (*choice.decode, *choice.offset))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [slice(0, 3), slice(None)])
@pytest.mark.parametrize("points", [1, 2])
def test_constant_coordinates(kind, constant, points):
    layer = Layer(17)
    layer.kernel[:, constant] = 0.0
    site = layer.site(sources=kind == "bent")._replace(kind=kind)
    copies = tuple(
        Point(Moments(*(a.copy() for a in p.moments)), p.metric) for p in site.points * points
    )
    site = site._replace(points=copies)
    found = surface(site, 1e-3)
    assert np.isfinite(found.errors).all()
    choice = choose(site, 5, 0, 1e-3)
    assert all(np.isfinite(array).all() for array in (*choice.decode, *choice.offset))
    if kind == "bent":
        np.testing.assert_allclose(decoded(site, choice, layer.h, layer.z), layer.h, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_site_that_nobody_minds_costs_nothing(kind):
    layer = Layer(18)
    site = layer.site(np.zeros((8, 8)), kind == "bent")._replace(kind=kind)
    assert surface(site, 1e-3).errors.max() == 0.0
    choice = choose(site, 2, 0, 1e-3)
    assert choice.error == 0.0 and np.isfinite(choice.decode[0]).all()


def test_numbers_that_are_not_finite_are_refused():
    site = Layer(19).site()
    point = site.points[0]
    bad = point.moments._replace(mean=np.full_like(point.moments.mean, np.nan))
    for points in ((point._replace(moments=bad),), (point._replace(metric=point.metric * np.inf),)):
        with pytest.raises(ValueError, match=r"layer: the me.* at point 0 is not finite"):
            surface(site._replace(points=points), 1e-3)
        with pytest.raises(ValueError, match="not finite"):
            choose(site._replace(points=points), 2, 0, 1e-3)


def test_what_does_not_fit_is_refused():
    site = Layer(20).site()
    with pytest.raises(ValueError, match="shape"):
        surface(site._replace(width=7), 1e-3)
    with pytest.raises(ValueError, match="nothing reads it"):
        surface(site._replace(points=()), 1e-3)
    with pytest.raises(ValueError, match="no linear sources"):
        surface(site._replace(kind="straight"), 1e-3)
    with pytest.raises(ValueError, match="9 coordinates"):
        choose(site, 9, 0, 1e-3)
    empty = site.points[0].moments._replace(count=np.zeros(2))
    with pytest.raises(ValueError, match="no fold"):
        surface(site._replace(points=(site.points[0]._replace(moments=empty),)), 1e-3)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    ridge=st.sampled_from([0.0, 1e-3, 0.5]),
    spread=st.sampled_from([0, 3, 6]),
    points=st.integers(1, 2),
)
def test_coordinates_of_very_different_sizes(seed, kind, ridge, spread, points):
    layer = Layer(seed)
    scale = 10.0 ** layer.rng.uniform(-spread, spread, size=8)
    layer.kernel, layer.bias = layer.kernel * scale, layer.bias * scale
    layer.kernel[:, 0] = layer.kernel[:, 1]  # a duplicate but for its bias
    sources = kind == "bent"
    single = layer.site(sources=sources)
    rows = single.points[0].moments
    rounded = [Moments(*(a.astype(np.float32).astype(float) for a in rows)) for _ in range(points)]
    read = tuple(Point(own, metric(layer.rng, 8, 3)[None]) for own in rounded)
    site = single._replace(kind=kind, points=read)
    found = surface(site, ridge)
    assert np.isfinite(found.errors).all() and found.errors.max() == found.total
    for k in (1, 5):
        choice = choose(site, k, 2 if sources else 0, ridge)
        assert all(np.isfinite(array).all() for array in (*choice.decode, *choice.offset))
        assert choice.error <= found.total * 1.5


@pytest.mark.parametrize("seed", range(6))
def test_coefficients_don_t_blow_up_what_single_precision_leaves(seed):
    """Collinear features whose moments are rounded: large weights would be nothing but rounding."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(500, 4))
    features = rows @ rng.normal(size=(4, 9)) + 3e-4 * rng.normal(size=(500, 9))
    target = rows @ rng.normal(size=(4, 3))
    both = np.concatenate([features, target], axis=1)
    exact = both.T @ both / len(both)
    rounded = np.triu(exact * (1 + 6e-8 * rng.choice([-1.0, 1.0], exact.shape)))
    rounded += np.triu(rounded, 1).T
    found = solve(rounded[:9, :9], rounded[:9, 9:])
    apart = target - features @ found
    assert np.mean(apart**2) < 1e-6 * np.mean(target**2)
    assert np.abs(found).max() < 5


def test_directions_that_vary_at_one_point_alone_are_not_blown_up_at_another():
    """At the second point one of two directions varies by rounding alone, now more, now less."""
    numbers = np.tile([[2, 1], [-2, 1], [2, -1], [-2, -1]], (10, 1))  # uncorrelated
    for seed in range(60):
        along = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 2)))[0].T
        points = tuple(Point(moments(numbers[:, :n] @ along[:n]), np.eye(6)[None]) for n in (2, 1))
        choice = choose(Site("stream", 6, 1, "straight", points, False), 2, 0, 0.0)
        assert max(np.abs(decode).max() for decode in choice.decode) < 5
