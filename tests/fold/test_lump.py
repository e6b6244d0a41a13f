"""Lumping finds every planted class, keeps the function, and leaves others untouched."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linjax
from linjax.chains.layers import Layer
from linjax.errors import LinjaxError
from linjax.fold.lossless.lump_layers import lump_layers
from linjax.fold.lossless.proportional import proportional_classes
from tests.fold.chains import forward, random_chain, size

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=150, deadline=None, derandomize=True)
pairs = st.sampled_from([(0.0, 1.0), (0.25, 1.0)])


def planted(rng, layers, dtype=np.float64):
    """Adds multiples of units, at random places, outgoing weights at random."""
    result, extra = list(layers), []
    for index in range(len(layers) - 1):
        layer = result[index]
        source = rng.integers(0, layer.units, int(rng.integers(0, 5)))
        ratio = rng.uniform(0.1, 9.0, len(source))
        kernel = np.concatenate([layer.kernel, layer.kernel[:, source] * ratio], axis=1)
        bias = np.concatenate([layer.bias, layer.bias[source] * ratio])
        order = rng.permutation(len(bias))
        result[index] = Layer(kernel[:, order].astype(dtype), bias[order].astype(dtype))
        reader = result[index + 1]
        rows = rng.normal(size=(len(source), reader.units))
        rows = np.concatenate([reader.kernel, rows])[order]
        result[index + 1] = Layer(rows.astype(dtype), reader.bias.astype(dtype))
        extra.append(len(source))
    return tuple(result), extra


@quick
@given(seeds, pairs, st.sampled_from([np.float32, np.float64]))
def test_finds_every_planted_unit_and_no_other(seed, pair, dtype):
    rng = np.random.default_rng(seed)
    # Each layer keeps its own multiples only until the one before is lumped: plant top-down.
    base = random_chain(rng, plain=True)
    layers, slopes = list(base), [pair] * (len(base) - 1)
    index = int(rng.integers(0, len(base) - 1))
    some, extra = planted(rng, layers[index : index + 2], dtype)
    layers[index : index + 2] = some
    folded, report = lump_layers(tuple(layers), slopes)
    assert report.kept == tuple(layer.units for layer in base[:-1])
    assert sum(report.units) - sum(report.kept) == sum(extra)
    x = rng.uniform(-1, 1, (50, base[0].reads))
    before, after = forward(layers, slopes, x)[0], forward(folded, slopes, x)[0]
    slack = 1e-12 * np.abs(before).max()
    assert (np.abs(after - before) <= report.error + slack).all()
    assert report.error.max() <= 1e4 * np.finfo(dtype).eps * max(1.0, np.abs(before).max())


@quick
@given(seeds, pairs)
def test_residual_paths_and_bottlenecks(seed, pair):
    rng = np.random.default_rng(seed)
    layers = list(random_chain(rng))
    layer = layers[0]
    kernel, bias = layer.kernel.copy(), layer.bias.copy()
    kernel[:, -1], bias[-1] = 3.0 * kernel[:, 0], 3.0 * bias[0]
    layers[0] = layer._replace(kernel=kernel, bias=bias)
    slopes = [pair] * (len(layers) - 1)
    folded, report = lump_layers(tuple(layers), slopes)
    assert report.kept[0] == report.units[0] - 1
    x = rng.normal(size=(30, layers[0].reads))
    before, after = forward(layers, slopes, x)[0], forward(folded, slopes, x)[0]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12 * max(1.0, np.abs(before).max()))


def test_lumping_a_layer_makes_the_next_one_lumpable():
    # Columns of the second layer are proportional only once the first is lumped.
    first = Layer(np.array([[1.0, 2.0]]), np.zeros(2))
    second = Layer(np.array([[1.0, 6.0], [2.0, 2.0]]), np.array([1.0, 2.0]))
    layers = (first, second, Layer(np.array([[1.0], [1.0]]), np.zeros(1)))
    folded, report = lump_layers(layers, [(0.0, 1.0)] * 2)
    assert report.kept == (1, 1)
    x = np.linspace(-2, 2, 9)[:, None]
    slopes = [(0.0, 1.0)] * 2
    np.testing.assert_allclose(forward(folded, slopes, x)[0], forward(layers, slopes, x)[0])


@quick
@given(seeds, st.floats(0.0, 0.5))
def test_tolerance_stays_within_the_reported_error(seed, tolerance):
    rng = np.random.default_rng(seed)
    layers, slopes = random_chain(rng), [(0.0, 1.0)] * 3
    folded, report = lump_layers(layers, slopes, tolerance, radius=2.0)
    x = rng.uniform(-2, 2, (100, layers[0].reads))
    change = np.abs(forward(folded, slopes, x)[0] - forward(layers, slopes, x)[0])
    assert (change <= report.error * (1 + 1e-9) + 1e-9).all()


def test_constant_units_move_into_the_bias():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 4))
    kernel[:, 1] = 0.0
    layers = (Layer(kernel, np.ones(4)), Layer(rng.normal(size=(4, 2)), np.zeros(2)))
    folded, report = lump_layers(layers, [(0.0, 1.0)])
    assert report.kept == (3,)
    x = rng.normal(size=(9, 3))
    np.testing.assert_allclose(
        forward(folded, [(0.0, 1.0)], x)[0], forward(layers, [(0.0, 1.0)], x)[0]
    )


def test_sites_without_slopes_and_opposite_units_are_left_alone():
    column = np.array([[1.0, 2.0, -1.0]])
    layers = (Layer(column, np.zeros(3)), Layer(np.ones((3, 1)), np.zeros(1)))
    assert lump_layers(layers, [None])[1].kept == (3,)
    assert lump_layers(layers, [(0.0, 1.0)])[1].kept == (2,)


def test_units_of_different_slopes_stay_apart():
    layers = (Layer(np.ones((1, 3)), np.zeros(3)), Layer(np.ones((3, 1)), np.zeros(1)))
    slopes = [(np.array([0.1, 0.2, 0.1]), 1.0)]
    assert lump_layers(layers, slopes)[1].kept == (2,)


@pytest.mark.parametrize("levels", [1, 3])
def test_quantised_kernels_have_many_classes(levels):
    rng = np.random.default_rng(0)
    kernel = rng.integers(-levels, levels + 1, (3, 200)).astype(np.float32)
    layers = (
        Layer(kernel, np.zeros(200, np.float32)),
        Layer(rng.normal(size=(200, 5)).astype(np.float32), np.zeros(5, np.float32)),
    )
    divisor = np.maximum(np.gcd.reduce(kernel.astype(int)), 1)
    expected = {tuple(c) for c in (kernel / divisor).T if any(c)}
    folded, report = lump_layers(layers, [(0.0, 1.0)])
    assert report.kept == (len(expected),)
    x = rng.normal(size=(40, 3))
    slopes = [(0.0, 1.0)]
    np.testing.assert_allclose(
        forward(folded, slopes, x)[0], forward(layers, slopes, x)[0], rtol=1e-10, atol=1e-9
    )


def test_work_grows_with_the_number_of_columns_only():
    columns = np.random.default_rng(0).normal(size=(50, 20_000))
    columns[:, 10_000:] = 2.0 * columns[:, :10_000]
    leader, ratio = proportional_classes(columns, np.zeros(20_000, int), 1e-12)
    assert (leader[:10_000] % 10_000 == np.arange(10_000)).all()
    assert len(np.unique(leader)) == 10_000
    np.testing.assert_allclose(columns[:, leader] * ratio, columns, rtol=1e-12)


@settings(quick, max_examples=15)
@given(seeds, st.sampled_from([0.0, 0.25]), st.integers(2, 4))
def test_combinations_go_where_bounds_prove_their_signs(seed, slope, terms):
    """Two combinations of units that are on, two of units that are off, one of others."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(-8, 9, (21, 12)) / 8  # so that combinations are exact in float32
    grid[20] = np.repeat([40.0, -40.0, 0.0], 4)
    mixes = np.zeros((12, 5))
    for column, first in enumerate((0, 0, 4, 4, 8)):
        chosen = rng.choice(np.arange(first, first + 4), terms, replace=False)
        mixes[chosen, column] = rng.choice([0.5, 1.0, 2.0], terms)
    whole = np.concatenate([grid, grid @ mixes], axis=1).astype(np.float32)
    params = {"in": whole[:20], "shift": whole[20], "out": rng.normal(size=(17, 5))}
    params = {name: leaf.astype(np.float32) for name, leaf in params.items()}

    def apply(params, x):
        return jax.nn.leaky_relu(x @ params["in"] + params["shift"], slope) @ params["out"]

    net = linjax.trace(apply, params, np.zeros((1, 20), np.float32))
    bounds = linjax.certify(net, params, -1.0, 1.0)
    lumped, (report,) = linjax.lump_and_report(net, params, bounds=bounds)
    # Units that are off are zero where the slope is: nothing to combine.
    # By chance these two may be multiples of each other.
    alike = np.linalg.matrix_rank(mixes[:, 2:4]) == 1
    gone = 2 + int(alike) if slope == 0 else 4
    assert (report.units, report.kept) == ((17,), (17 - gone,))
    x = rng.uniform(-1, 1, (200, 20)).astype(np.float32)
    want = np.asarray(jax.jit(net.apply)(params, x))
    np.testing.assert_allclose(jax.jit(net.apply)(lumped, x), want, atol=2e-5 * np.abs(want).max())


def test_negative_tolerance_is_refused():
    layers = random_chain(np.random.default_rng(0), plain=True)
    with pytest.raises(LinjaxError, match="tolerance"):
        lump_layers(layers, [(0.0, 1.0)] * 3, -1.0)
    assert size(lump_layers(layers, [(0.0, 1.0)] * 3)[0]) == size(layers)


@pytest.mark.parametrize("exact", [True, False])
def test_the_error_behind_an_unknown_activation_is_nothing_or_unknown(exact):
    """Multiples that are exact add no error; others may add any."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(4, 3))
    twice = kernel[:, :1] * 2.0
    if not exact:
        twice = twice + 1e-6 * rng.normal(size=(4, 1))
    layers = (
        Layer(rng.normal(size=(3, 4)), np.zeros(4)),
        Layer(np.concatenate([kernel, twice], 1), np.zeros(4)),
        Layer(rng.normal(size=(4, 2)), np.zeros(2)),
    )
    new, report = lump_layers(layers, [None, (0.0, 1.0)], 1e-3)
    assert new[1].units == 3
    assert (report.error == (0.0 if exact else np.inf)).all()
