"""Sizes that can't be met, folds that leave little, and evidence of other parameters."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

relu = jax.nn.relu


def normal(*shape, seed=0):
    return placed(np.random.default_rng([seed, *shape]).normal(size=shape))


def conv(x, w):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


DENSE = (
    lambda p, x: jnp.tanh(relu(x @ p["w"]) @ p["v"]) ** 2 + x[:, :3] @ p["fixed"] @ p["fixed"].T,
    {"w": normal(8, 32) / 3, "v": normal(32, 3) / 5, "fixed": normal(3, 40)},
    normal(400, 8),
)
IMAGES = (
    lambda p, x: conv(relu(conv(x, p["w"])), p["v"]).mean((1, 2)) @ p["out"],
    {"w": normal(3, 3, 2, 12) / 4, "v": normal(3, 3, 12, 4) / 9, "out": normal(4, 30)},
    normal(60, 5, 5, 2),
)


@pytest.mark.parametrize("network", [DENSE, IMAGES], ids=["dense", "images"])
def test_a_size_below_the_smallest_names_one_that_can_be_met(network):
    apply, params, x = network
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    known = linjax.frontier(params, stats)
    for evidence in (stats, known):
        with pytest.raises(linjax.LinjaxError, match=r"ask for linjax.size\(0?\.\d+\)") as refusal:
            linjax.fold(params, evidence, linjax.size(0.001))
    named = float(str(refusal.value).split("linjax.size(")[1].split(")")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        small = linjax.fold(params, stats, linjax.size(named))
    assert linjax.count(small) <= named * linjax.count(params)
    assert np.isinf(known.errors([0.001])[0]) and repr(known)


def test_a_fold_that_leaves_little_says_from_which_size_on_more_is_left():
    params = {"w": normal(8, 60) / 3, "b": normal(60), "v": normal(60, 5) / 8}
    x = normal(500, 8)
    net = linjax.trace(lambda p, x: relu(x @ p["w"] + p["b"]) @ p["v"], params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    with pytest.warns(linjax.FoldWarning, match=r"little is left.*linjax.size\(") as told:
        linjax.fold(params, stats, linjax.size(0.025))
    named = float(str(told[0].message).split("from linjax.size(")[1].split(")")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, report = linjax.fold_and_report(params, stats, linjax.size(named))
    assert report.predicted <= 0.11


@pytest.mark.parametrize("network", [DENSE, IMAGES], ids=["dense", "images"])
def test_evidence_of_parameters_that_have_moved(network):
    apply, params, x = network
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linjax.fold(params, stats, linjax.tolerance(0.2))
        cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), params)
        linjax.fold(cast, stats, linjax.tolerance(0.2))
    later = {**params, "v": params["v"] + 0.3 * normal(*params["v"].shape, seed=1) / 5}
    with pytest.warns(linjax.FoldWarning, match="have moved since .*, v most, by about"):
        linjax.fold(later, stats, linjax.tolerance(0.2))
    merged = linjax.merge(stats, linjax.collect(net, params, [x[:50]], metric="identity"))
    with pytest.warns(linjax.FoldWarning, match="v most"):
        linjax.fold(later, merged, linjax.tolerance(0.2))
