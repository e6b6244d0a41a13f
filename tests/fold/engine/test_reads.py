"""What makers are worth behind a fold."""

import numpy as np

from linjax.fold.engine.choose import choose
from linjax.fold.engine.reads import made_metric
from tests.fold.engine.build import Layer


def test_makers_of_always_on_units_are_worth_their_readers():
    layer = Layer(0)
    layer.bias[:] = 40.0
    site = layer.site()
    q = site.points[0].metric
    np.testing.assert_allclose(made_metric(site, choose(site, 8, 0, 1e-3)), q, rtol=1e-6)


def test_makers_of_dead_units_are_worth_nothing():
    layer = Layer(1)
    layer.bias[:3] = -40.0
    site = layer.site()
    found = made_metric(site, choose(site, 8, 0, 1e-3))[0]
    assert np.abs(found[:3]).max() == 0.0 and np.diag(found)[3:].min() > 0.0


def test_linear_coordinates_count_as_they_are_read():
    layer = Layer(2)
    site = layer.site()
    choice = choose(site, 0, 3, 1e-3)
    decode, q = choice.decode[0][0], site.points[0].metric[0]
    np.testing.assert_allclose(made_metric(site, choice)[0], decode @ q @ decode.T)


def test_straight_coordinates_count_as_they_are_read():
    layer = Layer(3)
    site = layer.site(sources=False)._replace(kind="straight")
    choice = choose(site, 3, 0, 1e-3)
    decode, q = choice.decode[0][0], site.points[0].metric[0]
    np.testing.assert_allclose(made_metric(site, choice)[0], decode @ q @ decode.T)


def test_a_small_error_of_the_makers_costs_what_the_metric_says():
    layer = Layer(4, rows=4000)
    site = layer.site()
    choice = choose(site, 8, 0, 1e-3)
    error = 1e-3 * np.random.default_rng(5).normal(size=(50, 8))
    q = site.points[0].metric[0]
    real = []
    for delta in error:  # a shift of z
        apart = np.maximum(layer.z + delta, 0.0) - layer.h
        real.append(np.mean(np.einsum("bi,ij,bj->b", apart, q, apart)))
    told = np.einsum("di,ij,dj->d", error, made_metric(site, choice)[0], error)
    assert 0.3 < np.sum(told) / np.sum(real) < 3.0
