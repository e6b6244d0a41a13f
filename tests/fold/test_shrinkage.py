"""Shrinkage leaves exact dependencies exact, and few rows don't overfit."""

import jax
import numpy as np
import pytest

import linjax
from linjax.fold.engine.choose import choose
from linjax.fold.engine.problem import Point, Site, frame
from linjax.fold.engine.shrink import noise
from tests.fold.engine.build import moments

UNITS = 6


@pytest.fixture
def data():
    """Units 0 always on, 1 dead, 2 and 3 alike, 4 the opposite of 2, 5 on its own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5))
    kernel = rng.normal(size=(5, UNITS))
    kernel[:, 3], kernel[:, 4] = 2 * kernel[:, 2], -kernel[:, 2]
    z = x @ kernel + np.array([20.0, -20.0, 0.0, 0.0, 0.0, 0.3])
    return np.concatenate([np.maximum(z, 0.0), z], 1)


def spread(rows):
    """Noise of [h | z]."""
    own = moments(rows)
    metric = np.eye(rows.shape[1] // 2)[None]
    site = Site("units", UNITS, 1, "bent", (Point(own, metric),), True)
    return noise(site, frame(own))[0]


def test_noise_is_a_covariance(data):
    found = spread(data)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    assert np.linalg.eigvalsh(found).min() > -1e-10


def test_noise_has_the_sizes_of_pre_activations(data):
    np.testing.assert_allclose(np.diag(spread(data))[UNITS:], data[:, UNITS:].var(0), rtol=1e-9)


def test_an_always_on_unit_stays_a_linear_map_of_its_pre_activation(data):
    found = spread(data)
    np.testing.assert_allclose(found[:, 0], found[:, UNITS], rtol=1e-9, atol=1e-12)


def test_a_dead_unit_has_no_noise(data):
    np.testing.assert_allclose(spread(data)[1], 0.0, atol=1e-12)


def test_duplicates_share_their_noise(data):
    found = spread(data)
    np.testing.assert_allclose(found[3], 2 * found[2], rtol=1e-9, atol=1e-12)


def test_opposites_bend_alike(data):
    """relu(−z) = relu(z) − z: nothing is between them."""
    between = np.zeros(2 * UNITS)
    between[2], between[4], between[UNITS + 2] = 1.0, -1.0, -1.0
    found = spread(data)
    assert between @ found @ between < 1e-6 * found[2, 2]


def test_units_that_bend_alone_have_noise_of_their_own(data):
    found, z = spread(data), slice(UNITS, None)
    on_z = np.linalg.lstsq(found[z, z], found[z, 5])[0]
    assert found[5, 5] - found[z, 5] @ on_z > 0.01 * found[5, 5]


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
    np.testing.assert_allclose(
        jax.jit(net.apply)(small, x), jax.jit(net.apply)(params, x), rtol=1e-3, atol=1e-3
    )


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


def test_units_that_others_explain_are_not_kept_for_their_rounding():
    """Beside linear coordinates that carry them, units that hardly bend are left out."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4000, 4)).astype(np.float32)
    kernel = rng.normal(size=(4, 9)).astype(np.float32)
    z = x @ kernel + np.float32([9.0] * 6 + [0.0] * 3)
    rows = np.concatenate([np.maximum(z, 0), z], 1).astype(np.float64)
    root = rng.normal(size=(9, 5))
    point, spread = Point(moments(rows), (root @ root.T)[None]), (kernel.T @ kernel)[None]
    site = Site("units", 9, 1, "bent", (point,), True, spread.astype(np.float64))
    choice = choose(site, 3, 4, 1e-5)
    np.testing.assert_array_equal(choice.kept[0], [6, 7, 8])
    assert np.abs(choice.decode[0]).max() < 100
    assert choice.error < 1e-6 * np.trace(root.T @ np.cov(rows[:, :9].T) @ root)


@pytest.mark.parametrize("inputs", [3, 30])
def test_noise_has_its_size_in_all_directions_that_inputs_move_in(inputs):
    """Inputs that go together hardly move a layer in some directions; noise isn't less there."""
    rng = np.random.default_rng(inputs)
    x = rng.normal(size=(400, 1)) + 0.1 * rng.normal(size=(400, inputs))
    sizes = [(inputs, 8), (8, 2)]
    params = {str(i): rng.normal(size=own).astype(np.float32) for i, own in enumerate(sizes)}
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["0"] + 1.0) @ p["1"], params, x[:2])
    stats = linjax.collect(net, params, [x.astype(np.float32)], metric="identity")
    (problem,) = linjax.frontier(params, stats).problems.problems
    z = x @ params["0"]
    if inputs == 30:
        np.testing.assert_allclose(problem.noise[0], np.diag(z.var(0)), rtol=1e-3, atol=1e-3)
        return
    # The noise of z's own size, in the only three directions that three inputs can move it in.
    size = z.std(0)
    basis = np.linalg.qr((params["0"] / size).T.astype(np.float64))[0]
    whitened = problem.noise[0] / size / size[:, None]
    np.testing.assert_allclose(whitened, basis @ basis.T, atol=1e-3)
