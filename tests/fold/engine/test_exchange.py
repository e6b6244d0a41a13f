"""Exchanged units explain no less than greedy ones, and mostly what the best set explains."""

import itertools

import numpy as np
import pytest

from linjax.fold.engine.exchange import exchanged
from linjax.fold.engine.pursuit import View, pursued


def explained(views, units):
    """The target's variance that a regression on units explains, over all points."""
    total = 0.0
    for view in views:
        own, cross = view.covariance[np.ix_(units, units)], view.cross[units]
        total += np.trace(cross.T @ np.linalg.lstsq(own, cross)[0])
    return total


def problem(seed, points, units=9, inputs=4):
    """Units that bend in few directions, and targets that are linear in them."""
    rng = np.random.default_rng(seed)
    kernel, views = rng.normal(size=(inputs, units)), []
    for _ in range(points):
        z = rng.normal(size=(200, inputs)) @ kernel + 0.5 * rng.normal(size=units)
        h = np.maximum(z, 0.0) + 0.05 * rng.normal(size=z.shape)
        covariance = np.cov(h.T)
        views.append(View(covariance, covariance @ rng.normal(size=(units, 2))))
    return views, int(rng.integers(2, units - 2))


@pytest.mark.parametrize("points", [1, 2])
def test_the_best_set_is_mostly_found(points):
    best, ours, greedy = 0, 0, 0
    for seed in range(60):
        views, k = problem(seed, points)
        found = exchanged(views, k)
        assert len(set(found.tolist())) == k
        before, now = explained(views, pursued(views, k)[0]), explained(views, found)
        assert now >= before * (1 - 1e-9)
        sets = itertools.combinations(range(9), k)
        most = max(explained(views, list(units)) for units in sets)
        ours += now > most * (1 - 1e-9)
        greedy += before > most * (1 - 1e-9)
        best += 1
    assert ours >= 0.88 * best > greedy


def test_a_unit_that_two_others_explain_makes_way():
    """The sum of two units says most of a target alone, and nothing beside them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 3))
    both = x[:, 0] + x[:, 1] + 0.3 * x[:, 2]
    covariance = np.cov(np.column_stack([x[:, 0], x[:, 1], both]).T)
    view = View(covariance, covariance[:, :2] @ np.array([[1.0], [1.0]]))
    assert pursued([view], 2)[0][0] == 2
    assert sorted(exchanged([view], 2)) == [0, 1]
    np.testing.assert_allclose(
        explained([view], [0, 1]), np.ones(2) @ covariance[:2, :2] @ np.ones(2), rtol=1e-9
    )


def test_many_exchanges_leave_the_numbers_right():
    """Worths and losses after many rank-one updates are those of fresh regressions."""
    views, _ = problem(5, 1, units=60, inputs=10)
    found = exchanged(views, 20)
    now = explained(views, found)
    for slot in range(20):
        for unit in set(range(60)) - set(found.tolist()):
            other = found.copy()
            other[slot] = unit
            assert explained(views, other) <= now * (1 + 1e-5)


def test_dead_and_duplicate_units_are_left_out():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 4))
    h = np.column_stack([x, 2 * x[:, 0], np.zeros(300)])
    covariance = np.cov(h.T)
    view = View(covariance, covariance @ rng.normal(size=(6, 3)))
    assert len(exchanged([view], 5)) == 4
    assert 5 not in exchanged([view], 3)


def test_a_unit_that_is_dead_at_one_point_counts_at_the_other():
    first, second = np.diag([1.0, 1.0, 0.0]), np.diag([1.0, 1.0, 4.0])
    cross = np.array([[1.0], [0.5], [2.0]])
    views = [View(first, first @ cross), View(second, second @ cross)]
    assert sorted(exchanged(views, 2)) == [0, 2]
