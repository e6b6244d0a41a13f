"""Folds of one site: what is exact, what is best, and that points and repeats belong together."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linjax.fold.engine.choose import choose
from linjax.fold.engine.problem import Goal, Moments, Point, Site
from linjax.fold.engine.surface import surface
from tests.fold.engine.build import KINDS, Layer, decoded, metric, moments


@pytest.mark.parametrize("ridge", [1e-5, 1e-3, 0.5])
def test_always_on_dead_and_duplicate_units_go_exactly(ridge):
    layer = Layer(0, m=9, p=6)
    layer.bias[:3] = 40.0  # always on
    layer.bias[3] = -40.0  # dead
    layer.kernel[:, 4] = layer.kernel[:, 5] * 2.0  # a duplicate of twice the size
    layer.bias[4] = layer.bias[5] * 2.0
    site = layer.site()
    choice = choose(site, 4, 3, ridge)
    assert set(choice.kept[0]) <= {4, 5, 6, 7, 8}
    np.testing.assert_allclose(decoded(site, choice, layer.h, layer.z), layer.h, atol=2e-5)
    found = surface(site, ridge)
    assert found.errors[4, 3] <= 1e-5 * found.total
    assert found.errors[3, 3] > 1e-3 * found.total


def test_single_precision_moments_are_exact_enough():
    layer = Layer(1, m=8, p=6)
    layer.bias[:4] = 30.0
    rows = np.concatenate([layer.h, layer.z], 1).astype(np.float32)
    point = Point(moments(rows.astype(np.float64)), np.eye(8)[None])
    site = Site("layer", 8, 1, "bent", (point,), True, layer.noise[None])
    choice = choose(site, 4, 4, 1e-3)
    np.testing.assert_allclose(decoded(site, choice, layer.h, layer.z), layer.h, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_full_width_is_the_identity(kind):
    layer = Layer(2)
    site = layer.site(sources=kind == "bent")._replace(kind=kind)
    choice = choose(site, 8, 0, 1e-1)
    np.testing.assert_array_equal(choice.decode[0][0], np.eye(8))
    np.testing.assert_array_equal(choice.offset[0], 0.0)
    assert choice.error == 0.0
    assert surface(site, 1e-1).errors[8, 0] == 0.0


@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_a_straight_basis_is_the_best_there_is(k):
    layer = Layer(3, p=8)
    q = metric(layer.rng, 8)
    site = layer.site(q, sources=False)._replace(kind="straight")
    choice = choose(site, k, 0, 0.0)
    values, vectors = np.linalg.eigh(np.cov(layer.h.T, bias=True))
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    singular = np.linalg.svd(root @ np.linalg.cholesky(q), compute_uv=False)
    best = np.sum(singular[k:] ** 2)
    np.testing.assert_allclose(choice.error, best, rtol=1e-6)
    apart = layer.h - decoded(site, choice, layer.h, None)
    np.testing.assert_allclose(np.sum((apart.T @ apart / len(apart)) * q), best, rtol=1e-6)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5])
def test_straight_coordinates_of_low_rank_lose_nothing(ridge):
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(300, 3)) @ (rng.normal(size=(3, 7)) * 10.0 ** np.arange(-3, 4))
    site = Site("v", 7, 1, "straight", (Point(moments(rows), metric(rng, 7)[None]),), False)
    choice = choose(site, 3, 0, ridge)
    # Coordinates count by their size in the metric, so small ones may be off by more.
    np.testing.assert_allclose(decoded(site, choice, rows, None), rows, rtol=1e-4, atol=1e-5)
    found = surface(site, ridge)
    assert found.errors[3, 0] <= 1e-9 * found.total


@pytest.mark.parametrize("k", [0, 2, 5])
def test_aligned_coordinates_lose_what_is_dropped(k):
    layer = Layer(5)
    q = metric(layer.rng, 8)
    site = layer.site(q, sources=False)._replace(kind="aligned")
    choice = choose(site, k, 0, 1e-3)
    apart = layer.h - decoded(site, choice, layer.h, None)
    np.testing.assert_allclose(choice.error, np.sum((apart.T @ apart / len(apart)) * q))
    np.testing.assert_array_equal(choice.decode[0][0], np.eye(8)[choice.kept[0]])


def test_one_aligned_coordinate_is_dropped_as_by_hand():
    layer = Layer(6)
    q = metric(layer.rng, 8)
    site = layer.site(q, sources=False, folds=1)._replace(kind="aligned")
    losses = np.diag(q) * np.mean(layer.h**2, 0)
    choice = choose(site, 7, 0, 1e-3)
    assert set(range(8)) - set(choice.kept[0]) == {int(np.argmin(losses))}
    np.testing.assert_allclose(surface(site, 1e-3).errors[7, 0], losses.min())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(0, 6), r=st.integers(0, 4))
def test_decoders_are_regressions(seed, k, r):
    layer = Layer(seed, m=7, rows=200)
    q = metric(layer.rng, 7)
    site = layer.site(q)
    choice = choose(site, k, r, 0.0)
    assert choice.kept.shape == (1, k) and choice.linear.shape == (1, 7, r)
    assert np.all(np.diff(choice.kept[0]) > 0)
    features = np.concatenate([layer.h[:, choice.kept[0]], layer.z @ choice.linear[0]], 1)
    one = np.concatenate([features, np.ones((200, 1))], 1)
    best = layer.h - one @ np.linalg.lstsq(one, layer.h, rcond=None)[0]
    apart = layer.h - decoded(site, choice, layer.h, layer.z)
    size = np.sum(np.cov(layer.h.T, bias=True) * q)
    np.testing.assert_allclose(
        np.sum((apart.T @ apart / 200) * q), np.sum((best.T @ best / 200) * q), atol=1e-5 * size
    )
    np.testing.assert_allclose(choice.error, np.sum((apart.T @ apart / 200) * q), atol=1e-5 * size)


def test_one_unit_is_the_best_one():
    layer = Layer(7)
    q = metric(layer.rng, 8, rank=2)
    site = layer.site(q, sources=False)
    errors = []
    for i in range(8):
        one = np.stack([layer.h[:, i], np.ones(len(layer.h))], 1)
        apart = layer.h - one @ np.linalg.lstsq(one, layer.h, rcond=None)[0]
        errors.append(np.sum((apart.T @ apart / len(apart)) * q))
    assert choose(site, 1, 0, 0.0).kept[0, 0] == int(np.argmin(errors))


def _repeated(layers, sources=True):
    rows = [np.concatenate([a.h, a.z], 1) if sources else a.h for a in layers]
    metrics = np.stack([metric(a.rng, 8) for a in layers])
    noise = np.stack([a.noise for a in layers]) if sources else None
    point = Point(moments(np.stack(rows, 1)), metrics)
    whole = Site("all", 8, len(layers), "bent", (point,), sources, noise)
    apart = [
        Site(
            "one", 8, 1, "bent", (Point(moments(own), q[None]),), sources,
            noise[i : i + 1] if sources else None,
        )
        for i, (own, q) in enumerate(zip(rows, metrics, strict=True))
    ]  # fmt: skip
    return whole, apart


@pytest.mark.parametrize("kind", KINDS)
def test_repeats_are_solved_each_for_itself(kind):
    sources = kind == "bent"
    whole, apart = _repeated([Layer(s) for s in (8, 9, 10)], sources)
    whole = whole._replace(kind=kind)
    apart = [site._replace(kind=kind) for site in apart]
    k, r = (3, 2) if sources else (3, 0)
    choice = choose(whole, k, r, 1e-3)
    for i, site in enumerate(apart):
        own = choose(site, k, r, 1e-3)
        np.testing.assert_array_equal(choice.kept[i], own.kept[0])
        np.testing.assert_allclose(choice.decode[0][i], own.decode[0][0], atol=1e-9)
        np.testing.assert_allclose(choice.linear[i], own.linear[0], atol=1e-9)
    found = surface(whole, 1e-3).errors
    added = 0.0
    for site in apart:
        errors = surface(site, 1e-3).errors
        added += np.pad(errors, ((0, 0), (0, found.shape[1] - errors.shape[1])), mode="edge")
    np.testing.assert_allclose(found, added, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_points_with_the_same_moments_are_one_with_both_metrics(kind):
    layer = Layer(11)
    sources = kind == "bent"
    q, other = metric(layer.rng, 8), metric(layer.rng, 8)
    one = layer.site(q + other, sources)._replace(kind=kind)
    kept = one.points[0].moments
    shared = one._replace(points=(Point(kept, q[None]), Point(kept, other[None])))
    copies = [Moments(*(a.copy() for a in kept)) for _ in range(2)]
    apart = one._replace(points=(Point(copies[0], q[None]), Point(copies[1], other[None])))
    r = 2 if sources else 0
    whole, both, two = (choose(site, 3, r, 1e-3) for site in (one, shared, apart))
    np.testing.assert_allclose(both.error, whole.error)
    np.testing.assert_array_equal(both.kept, whole.kept)
    np.testing.assert_array_equal(two.kept, whole.kept)
    np.testing.assert_allclose(two.error, whole.error, rtol=1e-5)
    assert len(both.decode) == len(two.decode) == 2
    z = layer.z if sources else None
    np.testing.assert_allclose(
        decoded(apart, two, layer.h, z, 1), decoded(one, whole, layer.h, z), atol=1e-4
    )
    errors = [surface(site, 1e-3).errors for site in (one, shared, apart)]
    np.testing.assert_allclose(errors[1], errors[0])
    np.testing.assert_allclose(errors[2], errors[0], rtol=1e-3, atol=1e-6 * errors[0].max())


@pytest.mark.parametrize("kind", KINDS)
def test_points_decode_by_their_own_moments(kind):
    first, second = Layer(12), Layer(13)
    sources = kind == "bent"
    a, b = first.site(sources=sources), second.site(sources=sources)
    site = a._replace(points=(*a.points, *b.points), kind=kind, noise=None)
    r = 2 if sources else 0
    choice = choose(site, 4, r, 0.0)
    error = 0.0
    for i, layer in enumerate((first, second)):
        apart = layer.h - decoded(site, choice, layer.h, layer.z if sources else None, i)
        error += np.sum((apart.T @ apart / len(apart)) * site.points[i].metric[0])
    np.testing.assert_allclose(choice.error, error, rtol=1e-4)
    totals = [surface(own._replace(kind=kind), 0.0).total for own in (a, b)]
    np.testing.assert_allclose(surface(site, 0.0).total, sum(totals), rtol=1e-9)


@pytest.mark.parametrize("k", [3, 5, 7])
def test_paired_points_share_a_decoder(k):
    """Keys get one inverse for all products: what that costs at each point is what is told."""
    layers, sizes = [Layer(seed, rows=4000) for seed in (30, 31)], (1.0, 50.0)
    points = [
        Point(moments(size * own.h), metric(own.rng, 8, 4)[None])
        for own, size in zip(layers, sizes, strict=True)
    ]
    site = Site("q", 8, 1, "paired", tuple(points), False)

    def errors(choice):
        found = []
        for size, own, point in zip(sizes, layers, points, strict=True):
            h = size * (own.h - own.h.mean(0))
            apart = h - h @ choice.basis[0] @ choice.decode[0][0]
            found.append(np.sum((apart.T @ apart / len(h)) * point.metric[0]))
        return sum(found)

    choice = choose(site, k, 0, 0.0)
    np.testing.assert_array_equal(*choice.decode)
    np.testing.assert_allclose(choice.error, errors(choice), rtol=1e-4)
    np.testing.assert_allclose(surface(site, 0.0).errors[k, 0], choice.error, rtol=0.2)
    for own in points:  # a basis for one of them alone costs more
        one = choose(site._replace(points=(own,)), k, 0, 0.0)
        assert errors(one) > 0.999 * choice.error


def test_every_two_units_at_two_points():
    first, second = Layer(14, m=6), Layer(15, m=6)
    a, b = first.site(sources=False), second.site(sources=False)
    site = a._replace(points=(*a.points, *b.points))

    def error(pair):
        found = 0.0
        for layer, point in zip((first, second), site.points, strict=True):
            one = np.concatenate([layer.h[:, pair], np.ones((len(layer.h), 1))], 1)
            apart = layer.h - one @ np.linalg.lstsq(one, layer.h, rcond=None)[0]
            found += np.sum((apart.T @ apart / len(apart)) * point.metric[0])
        return found

    errors = sorted(error(list(pair)) for pair in itertools.combinations(range(6), 2))
    choice = choose(site, 2, 0, 0.0)
    np.testing.assert_allclose(choice.error, error(list(choice.kept[0])), rtol=1e-5)
    assert choice.error <= errors[2] + 1e-9  # greedy, but not far off


def _rows_of(layer, sources):
    return np.concatenate([layer.h, layer.z], 1) if sources else layer.h


@pytest.mark.parametrize("kind", ["bent", "straight"])
@pytest.mark.parametrize("k", [0, 3, 8])
def test_what_readers_should_get_may_be_another_network_s(kind, k):
    layer = Layer(21)
    sources, r = kind == "bent", 2 if kind == "bent" else 0
    wish = layer.h @ (np.eye(8) + 0.3 * layer.rng.normal(size=(8, 8))) + 2.0
    wish = wish + 0.1 * layer.rng.normal(size=wish.shape)
    rows = _rows_of(layer, sources)
    w = rows.shape[1]
    joint = moments(np.concatenate([rows, wish], 1))
    goal = Goal(joint.mean[..., w:], joint.covariance[..., :w, w:], joint.covariance[..., w:, w:])
    site = layer.site(sources=sources)._replace(kind=kind)
    aimed = site._replace(points=(site.points[0]._replace(goal=goal),))
    choice = choose(aimed, k, r, 0.0)
    z = layer.z if sources else None
    features = layer.h @ choice.basis[0] if kind == "straight" else layer.h[:, choice.kept[0]]
    one = [features, np.ones((len(wish), 1)), *([layer.z @ choice.linear[0]] if sources else [])]
    one = np.concatenate(one, 1)
    best = wish - one @ np.linalg.lstsq(one, wish, rcond=None)[0]
    apart = wish - decoded(site, choice, layer.h, z)
    q = site.points[0].metric[0]
    size = np.sum(np.cov(wish.T, bias=True) * q)
    error = np.sum((apart.T @ apart / len(apart)) * q)
    np.testing.assert_allclose(error, np.sum((best.T @ best / len(best)) * q), atol=1e-5 * size)
    np.testing.assert_allclose(choice.error, error, atol=1e-5 * size)
    # Aiming at the coordinates themselves is the default.
    own = moments(np.concatenate([rows, layer.h], 1))
    goal = Goal(own.mean[..., w:], own.covariance[..., :w, w:], own.covariance[..., w:, w:])
    same = choose(site._replace(points=(site.points[0]._replace(goal=goal),)), k, r, 1e-2)
    plain = choose(site, k, r, 1e-2)
    np.testing.assert_array_equal(same.kept, plain.kept)
    np.testing.assert_allclose(
        decoded(site, same, layer.h, z), decoded(site, plain, layer.h, z), atol=1e-4
    )
