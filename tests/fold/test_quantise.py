"""Few levels, the nearest ones, and proportional units that lumping then finds."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.errors import LinjaxError
from linjax.fold.quantise import quantise
from tests.fold.networks import dense, rows


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_kernels_take_few_levels(bits):
    apply, params = dense((6, 20, 8, 3))
    net = linjax.trace(apply, params, rows(2, 6))
    small = quantise(net, params, bits)
    for name, part in small.items():
        kernel, bias = (np.asarray(part[k], np.float64) for k in ("kernel", "bias"))
        assert part["kernel"].dtype == jnp.float32
        for column, shift in zip(kernel.T, bias, strict=True):
            step = np.abs(column[column != 0]).min()
            for integers in range(1, 8):  # the smallest may be a multiple of the step itself
                whole = np.append(column, shift) * integers / step
                if np.abs(whole - np.round(whole)).max() < 1e-4:
                    break
            assert np.abs(whole - np.round(whole)).max() < 1e-4
            assert np.abs(np.round(whole[:-1])).max() <= max(1, 2 ** (bits - 1) - 1)
        assert np.linalg.norm(kernel - params[name]["kernel"]) < 0.8 * np.linalg.norm(kernel)


def test_no_scale_is_better():
    kernel = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    params = {"in": kernel, "out": np.ones((40, 1), np.float32)}
    net = linjax.trace(lambda p, x: jnp.maximum(x @ p["in"], 0) @ p["out"], params, rows(1, 3))
    found = np.asarray(quantise(net, params, 2, names=("in",))["in"])
    error = ((kernel - found) ** 2).sum(axis=0)
    ternary = np.array(list(itertools.product((-1, 0, 1), repeat=3)))[1:]
    ternary = ternary[ternary.any(axis=1)].T.astype(float)
    scale = kernel.T @ ternary / (ternary**2).sum(axis=0)
    best = ((kernel[:, :, None] - scale[None] * ternary[:, None]) ** 2).sum(axis=0).min(axis=1)
    np.testing.assert_allclose(error, best, rtol=1e-4, atol=1e-7)


def test_more_bits_are_closer_and_lump_less():
    apply, params = dense((4, 300, 5), scale=1.0)
    x = rows(200, 4)
    net = linjax.trace(apply, params, x)
    errors, kept = [], []
    for bits in (1, 2, 3, 4):
        small = quantise(net, params, bits)
        lumped, (report,) = linjax.lump_and_report(net, small)
        want = np.asarray(net.apply(small, x))
        np.testing.assert_allclose(net.apply(lumped, x), want, atol=1e-4 * np.abs(want).max())
        errors.append(np.abs(want - apply(params, x)).mean())
        kept.append(report.kept[0])
    assert errors == sorted(errors, reverse=True)
    assert kept == sorted(kept) and kept[0] < 100 < kept[-1] < 300


def test_units_without_weights_and_folded_networks():
    apply, params = dense((4, 10, 5))
    params["layer_0"]["kernel"] = params["layer_0"]["kernel"].at[:, 3].set(0.0)
    net = linjax.trace(apply, params, rows(2, 4))
    small = quantise(net, params, 3)
    assert small["layer_0"]["bias"][3] == params["layer_0"]["bias"][3]
    lumped = linjax.lump(net, small)
    assert quantise(net, lumped, 2)["layer_0"]["kernel"].shape == lumped["layer_0"]["kernel"].shape


def test_bad_input_is_refused():
    apply, params = dense((4, 10, 5))
    net = linjax.trace(apply, params, rows(2, 4))
    with pytest.raises(LinjaxError, match="bits: expected 1, 2, 3 or 4, found 8"):
        quantise(net, params, 8)
    with pytest.raises(LinjaxError, match="no affine map 'layer_7'"):
        quantise(net, params, 2, names=("layer_7",))
