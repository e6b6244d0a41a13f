"""Pieces without entries cut nothing, and what was compiled before is traced as it was written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import normal


def conv(x, w, padding="SAME", groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), padding, dimension_numbers=numbers, feature_group_count=groups
    )


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric", "wrap"])
def test_axes_that_are_padded_by_nothing_stay_whole(mode):
    def apply(p, x):
        h = jax.nn.relu(conv(x, p["in"]))
        h = jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
        return conv(h, p["out"], "VALID").mean((1, 2))

    params = {"in": normal(0, 3, 3, 2, 8), "out": normal(1, 3, 3, 8, 5).at[:, :, 2:5].set(0)}
    x = normal(2, 64, 6, 6, 2)
    net = linjax.trace(apply, params, x[:2])
    assert [site.width for site in net.network.foldable] == [8]
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.7))
    np.testing.assert_allclose(net.apply(small, x), apply(params, x), atol=1e-4)


def test_empty_pieces_beside_a_whole_one():
    def apply(p, x):
        h = jax.nn.relu(x @ p["in"])
        return jnp.concatenate([h[:, :0], h, h[:, 3:3]], 1) @ p["out"]

    params = {"in": normal(0, 5, 12), "out": normal(1, 12, 4)}
    net = linjax.trace(apply, params, jnp.ones((2, 5)))
    assert [site.width for site in net.network.foldable] == [12]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_folded_depthwise_network_is_traced_again_for_any_batch(compiled):
    def apply(p, x):
        h = jax.nn.relu(conv(x, p["in"]))
        return conv(conv(h, p["depthwise"], groups=h.shape[-1]), p["out"])

    params = {"in": normal(0, 3, 3, 2, 8), "depthwise": normal(1, 3, 3, 1, 8)}
    params["out"] = normal(2, 1, 1, 8, 4)
    x = normal(3, 24, 6, 6, 2)
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.7))
    serve = jax.jit(net.apply) if compiled else net.apply
    for rows in (2, 5, 24):
        serve(small, x[:rows])  # JAX remembers these as they are best run
    again = linjax.trace(serve, small, x[:2])
    for rows in (1, 5, 24):
        linjax.collect(again, small, [x[:rows]] * 3, metric="identity")
    assert linjax.trace(net.apply, small, x[:2]).network.kernels.keys()
    stats = linjax.collect(again, small, [x], metric="identity")
    smaller, report = linjax.fold_and_report(small, stats, linjax.size(0.6))
    found = linjax.compare(again, small, smaller, [x], metric="identity")
    assert report.predicted / 2 < found.error < 2 * report.predicted
    assert net.flops(small, x[:2]) == linjax.trace(net.apply, small, x[:2]).flops(small)
