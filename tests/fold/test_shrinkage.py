"""Shrinkage leaves exact dependencies exact, and few rows don't overfit."""

import jax
import numpy as np
import pytest

import linjax
from linjax.evidence.moments import Moments
from linjax.fold.least_squares.budget import CARRY
from linjax.fold.least_squares.features import Features, Frame
from linjax.fold.least_squares.padding import padded, recurring
from linjax.fold.least_squares.prices import Problem, spread
from linjax.fold.least_squares.split import split
from linjax.graph.layers import Layer


def _moments(a, blocks, outputs):
    centred = a - a.mean(0)
    sensitivity = tuple(np.eye(n) for n in (*blocks[1:], outputs))
    return Moments(np.array([float(len(a))]), a.mean(0)[None], (centred.T @ centred)[None],
                   sensitivity, blocks)  # fmt: skip


@pytest.fixture
def problem():
    """Units 0 always on, 1 dead, 2 and 3 alike, 4 the opposite of 2, 5 on its own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    kernel = rng.normal(size=(3, 6))
    kernel[:, 3], kernel[:, 4] = 2 * kernel[:, 2], -kernel[:, 2]
    bias = np.array([20.0, -20.0, 0.0, 0.0, 0.0, 0.3])
    h = np.maximum(x @ kernel + bias, 0.0)
    layers = (Layer(kernel, bias), Layer(rng.normal(size=(6, 2)), np.zeros(2)))
    return Problem(layers, _moments(np.concatenate([x, h], 1), (3, 6), 2))


def test_noise_is_a_covariance(problem):
    noise = spread(problem)
    np.testing.assert_allclose(noise, noise.T, atol=1e-12)
    assert np.linalg.eigvalsh(noise).min() > -1e-10


def test_noise_has_the_sizes_of_inputs(problem):
    inputs = np.diag(problem.moments.scatter[0])[:3] / problem.moments.count[0]
    np.testing.assert_allclose(np.diag(spread(problem))[:3], inputs)


def test_an_always_on_unit_stays_a_linear_map_of_the_inputs(problem):
    noise, kernel = spread(problem), problem.layers[0].kernel
    np.testing.assert_allclose(noise[:3, 3], noise[:3, :3] @ kernel[:, 0], rtol=1e-9)
    np.testing.assert_allclose(noise[3, 3], kernel[:, 0] @ noise[:3, :3] @ kernel[:, 0], rtol=1e-6)


def test_a_dead_unit_has_no_noise(problem):
    np.testing.assert_allclose(spread(problem)[4], 0.0, atol=1e-12)


def test_duplicates_share_their_noise(problem):
    noise = spread(problem)
    np.testing.assert_allclose(noise[6], 2 * noise[5], rtol=1e-9, atol=1e-12)


def test_opposites_bend_alike(problem):
    """relu(−z) = relu(z) − z, so nothing but the inputs' noise is between them."""
    noise, kernel = spread(problem), problem.layers[0].kernel[:, 2]
    between = np.zeros(9)
    between[5], between[7], between[:3] = 1.0, -1.0, -kernel
    assert between @ noise @ between < 1e-6 * noise[5, 5]


def test_units_that_bend_alone_have_noise_of_their_own(problem):
    noise = spread(problem)
    on_inputs = np.linalg.solve(noise[:3, :3], noise[:3, 8])
    assert noise[8, 8] - noise[:3, 8] @ on_inputs > 0.01 * noise[8, 8]


def test_duplicates_go_free_of_charge_from_few_rows():
    keys = jax.random.split(jax.random.key(1), 3)
    first = jax.random.normal(keys[0], (6, 10))
    params = {
        "in": np.concatenate([first, 2 * first], 1),
        "out": jax.random.normal(keys[1], (20, 3)),
    }
    x = jax.random.normal(keys[2], (90, 6))
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"], params, x[:2])
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.6))
    np.testing.assert_allclose(net.apply(small, x), net.apply(params, x), rtol=1e-3, atol=1e-3)


def test_more_rows_than_few_help():
    """Errors on fresh rows fall with the number of rows, from fewer rows than features on."""
    keys = jax.random.split(jax.random.key(0), 5)
    sizes = [(16, 60), (60, 40), (40, 5)]
    params = {
        str(i): jax.random.normal(keys[i], shape) * np.sqrt(2 / shape[0])
        for i, shape in enumerate(sizes)
    }

    def apply(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["0"]) @ p["1"]) @ p["2"]

    fresh = jax.random.normal(keys[3], (2000, 16))
    wanted, errors = apply(params, fresh), []
    for rows in (60, 240, 2000):
        x = jax.random.normal(keys[4], (rows, 16))
        net = linjax.trace(apply, params, x[:2])
        stats = linjax.collect(net, params, [x], metric="identity")
        got = net.apply(linjax.fold(params, stats, linjax.size(0.3)), fresh)
        errors.append(float(np.sqrt(np.mean((got - wanted) ** 2) / np.var(wanted))))
    assert errors[0] < 0.5
    assert errors[1] < 1.05 * errors[0]
    assert errors[2] < 1.05 * errors[1]


class TestPadding:
    """Wider layers hold the same features."""

    @pytest.mark.parametrize("carry", [False, True])
    @pytest.mark.parametrize("neck", [False, True])
    def test_features_are_the_same(self, carry, neck):
        rng = np.random.default_rng(2)
        traced = tuple(
            Layer(rng.normal(size=(p, m)), np.zeros(m)) for p, m in [(5, 9), (9, 8), (8, 2)]
        )
        first = Layer(
            rng.normal(size=(3 if neck else 5, 4)), rng.normal(size=4),
            linear=rng.normal(size=(3 if neck else 5, 3)), carry=carry,
            down=rng.normal(size=(5, 3)) if neck else None,
        )  # fmt: skip
        second = Layer(rng.normal(size=(first.features, 6)), rng.normal(size=6))
        wide, places = padded((first, second), traced)
        x = rng.normal(size=(7, 5))
        for depth in (1, 2):
            want = _run((first, second)[:depth], x)
            np.testing.assert_allclose(_run(wide[:depth], x)[:, places[depth]], want, atol=1e-12)
        assert [layer.units for layer in wide] == [9, 8]

    def test_widths_recur(self):
        assert [recurring(n) for n in (0, 1, 3, 64, 65, 600)] == [0, 1, 4, 64, 128, 600]


def _run(layers, v):
    for layer in layers:
        inner = v if layer.down is None else v @ layer.down
        parts = [np.maximum(inner @ layer.kernel + layer.bias, 0.0)]
        parts += [] if layer.linear is None else [inner @ layer.linear]
        v = np.concatenate([*parts, inner] if layer.carry else parts, axis=1)
    return v


def test_units_that_others_explain_are_not_kept_for_their_rounding():
    """Beside features that carry them, units that hardly bend are left out."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4000, 4)).astype(np.float32)
    straight = (x @ rng.normal(size=(4, 6)).astype(np.float32)) + np.float32(9.0)
    bent = np.maximum(x @ rng.normal(size=(4, 3)).astype(np.float32), 0)
    a = np.concatenate([x, straight, bent], 1).astype(np.float64)
    data = Frame(len(a), a.mean(0), np.cov(a.T, bias=True))
    v, h = Features(np.arange(4)), Features(np.arange(4, 13))
    target = h @ rng.normal(size=(9, 5))
    choice = split(data, v, h, target, 9, CARRY)
    np.testing.assert_array_equal(choice.kept, [6, 7, 8])
    assert np.abs(choice.reads_units).max() < 10
    assert np.abs(choice.reads_inputs).max() < 100
    assert choice.error < 1e-6 * np.trace(data.within(target))
