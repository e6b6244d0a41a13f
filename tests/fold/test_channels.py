"""Folding convolutions: planted channels are found, predictions hold, batch norm is no obstacle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linjax
from linjax.fold.channels.execute import apply_choices
from linjax.fold.channels.network import read
from linjax.fold.channels.surface import Choice
from linjax.fold.rivals import magnitude, pruned_and_refitted
from linjax.graph import pytree
from tests.properties.convnets import Plan, Stage, build

FIRST = Stage(8, 3, 1, 1, "SAME", True, "none", "relu", False, "max")
SECOND = Stage(6, 3, 1, 1, "VALID", True, "none", "relu", False, "none")


def inputs(x, rows=240):
    return jnp.asarray(np.random.default_rng(1).normal(size=(rows, *x.shape[1:])), x.dtype)


def collected(apply, params, x):
    net = linjax.trace(apply, params, x[:2])
    return net, linjax.collect(net, params, [x[:120], x[120:]], metric="identity")


def carried_over(params, small, report):
    """An optimiser's state that numbers every parameter's entries, before a fold and after."""
    adam = optax.adam(1e-3)
    state = adam.init(params)
    marked = jax.tree.map(lambda p: jnp.arange(p.size, dtype=p.dtype).reshape(p.shape), params)
    state = (state[0]._replace(mu=marked), *state[1:])
    return marked, linjax.carry_over(adam, state, params, small, report)[0].mu


def relative(a, b):
    return float(jnp.sqrt(jnp.mean((a - b) ** 2) / jnp.mean((b - b.mean(0)) ** 2)))


def planted(params, norm):
    """Channel 0 never on, 3 twice channel 1, at every stage."""
    params = jax.tree.map(np.array, params)
    for name, own in params.items():
        if not name.startswith("stage"):
            continue
        own["kernel"][..., 3] = 2 * own["kernel"][..., 1]
        if "bias" in own:
            own["bias"][3] = 2 * own["bias"][1]
        if norm == "before":
            for key, factor in (("mean", 2), ("shift", 2), ("var", 1), ("scale", 1)):
                own["norm"][key][3] = factor * own["norm"][key][1]
            own["norm"]["shift"][0] = -60.0
        else:
            own["bias"][0] = -60.0
        if norm == "after":  # pooling takes the largest: the sign matters
            own["norm"]["scale"][3] = 0.7 * own["norm"]["scale"][1]
    return jax.tree.map(jnp.asarray, params)


@pytest.mark.parametrize(
    ("norm", "end"),
    [("none", "flatten"), ("before", "mean"), ("after", "mean"), ("after", "flatten")],
)
def test_dead_and_proportional_channels_go(norm, end):
    stages = (FIRST._replace(norm=norm), SECOND._replace(norm=norm))
    apply, params, x = build(Plan(2, 2, stages, "none", end, 3))
    params, x = planted(params, norm), inputs(x)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold(params, stats, linjax.tolerance(1e-3), details=True)
    assert [len(report.sites[f"stage{i}"].kept) for i in range(2)] == [6, 4]
    assert all(0 not in change.kept for change in report.sites.values())
    assert relative(net.apply(small, x), apply(params, x)) < 2e-3


@pytest.mark.parametrize(
    ("padding", "pool"),
    [("SAME", "none"), ("VALID", "mean"), ("explicit", "same mean"), ("SAME", "mean")],
)
def test_channels_that_are_always_on_travel_without_activation(padding, pool):
    """Exactly, at borders too: linear channels keep their bias in front of the padding."""
    stages = (FIRST._replace(pool=pool), SECOND._replace(padding=padding, stride=2))
    apply, params, x = build(Plan(2, 2, stages, "none", "mean", 5))
    params["stage0"]["bias"] = params["stage0"]["bias"].at[jnp.array([1, 4, 6])].set(60.0)
    x = inputs(x, 400)
    net, stats = collected(apply, params, x)
    network = read(params, stats)
    made = [
        Choice(np.array([0, 2, 3, 5, 7]), np.eye(8)[:, [1, 4, 6]]),
        Choice(np.arange(6), np.zeros((6, 0))),
    ]
    small = pytree.unflatten(apply_choices(network, made, ridge=1e-9))
    assert small["stage0"]["kernel_linear"].shape[-1] == 3
    assert relative(net.apply(small, x), apply(params, x)) < 2e-4


def test_linear_channels_are_as_few_as_the_rank():
    stages = (
        FIRST._replace(pool="none"),
        SECOND._replace(window=1, channels=2, activation="leaky_relu"),
    )
    apply, params, x = build(Plan(2, 2, stages, "none", "flatten", 5))
    params["stage0"]["bias"] = params["stage0"]["bias"].at[2:].set(60.0)
    x = inputs(x)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold(params, stats, linjax.tolerance(2e-3), details=True)
    change = report.sites["stage0"]
    assert len(change.kept) <= 2 and change.linears <= 2
    assert relative(net.apply(small, x), apply(params, x)) < 4e-3


def test_predicted_error_is_measured_error():
    stages = (FIRST, SECOND)
    apply, params, x = build(Plan(2, 2, stages, "none", "flatten", 7))
    x = inputs(x, 480)
    net, stats = collected(apply, params, x)
    known = linjax.frontier(params, stats)
    for share in (0.7, 0.4):
        small, report = linjax.fold(params, known, linjax.size(share), details=True)
        assert report.after <= share * report.before
        assert report.after == linjax.count(small)
        measured = relative(net.apply(small, x), apply(params, x))
        assert 0.4 * measured < report.predicted < 2.5 * measured + 1e-3


@pytest.mark.parametrize("seed", [1, 3])
def test_errors_that_are_alike_all_over_an_image_are_predicted(seed):
    """Smooth images, and a mean over space: errors of an image's places add up."""
    wide = FIRST._replace(pool="none")
    stages = (wide, wide._replace(channels=10), SECOND)
    apply, params, _ = build(Plan(2, 2, stages, "none", "mean", seed))
    coarse = jnp.asarray(np.random.default_rng(0).normal(size=(480, 3, 3, 2)), jnp.float32)
    x = jax.image.resize(coarse, (480, 10, 10, 2), "linear")
    net, stats = collected(apply, params, x)
    known = linjax.frontier(params, stats)
    for share in (0.8, 0.6, 0.4):
        small, report = linjax.fold(params, known, linjax.size(share), details=True)
        measured = relative(net.apply(small, x), apply(params, x))
        assert 0.7 < report.predicted / measured < 1.8


def test_batch_norm_folds_as_well_as_by_hand():
    stages = (FIRST._replace(norm="before", bias=False), SECOND._replace(norm="before"))
    apply, params, x = build(Plan(2, 2, stages, "residual", "mean", 9))
    plain, by_hand, _ = build(
        Plan(2, 2, tuple(s._replace(norm="none", bias=True) for s in stages), "residual", "mean", 9)
    )
    for name in ("stage0", "stage1"):
        p = params[name]
        factor = p["norm"]["scale"] / jnp.sqrt(p["norm"]["var"] + 1e-5)
        by_hand[name]["kernel"] = p["kernel"] * factor
        shift = p.get("bias", 0.0) - p["norm"]["mean"]
        by_hand[name]["bias"] = shift * factor + p["norm"]["shift"]
    for name in ("block", "head"):
        by_hand[name] = params[name]
    x = inputs(x)
    np.testing.assert_allclose(apply(params, x), plain(by_hand, x), atol=2e-4)
    budget = 0.5 * linjax.count(by_hand)
    folded = []
    for function, tree in ((apply, params), (plain, by_hand)):
        net, stats = collected(function, tree, x)
        small = linjax.fold(tree, stats, linjax.size(budget / linjax.count(tree)))
        folded.append((linjax.count(small), net.apply(small, x)))
    assert folded[0][0] == folded[1][0]
    np.testing.assert_allclose(folded[0][1], folded[1][1], atol=5e-3)


def test_rivals_meet_the_budget():
    apply, params, x = build(Plan(2, 2, (FIRST, SECOND), "none", "flatten", 7))
    x = inputs(x)
    net, stats = collected(apply, params, x)
    errors = {}
    for method in (magnitude, pruned_and_refitted, linjax.fold):
        small = method(params, stats, linjax.size(0.4))
        assert linjax.count(small) <= 0.4 * linjax.count(params)
        errors[method] = relative(net.apply(small, x), apply(params, x))
    assert errors[linjax.fold] < errors[pruned_and_refitted] < errors[magnitude]


def test_folded_networks_fold_again():
    apply, params, x = build(Plan(2, 2, (FIRST, SECOND), "none", "mean", 7))
    x = inputs(x)
    net, stats = collected(apply, params, x)
    once = linjax.fold(params, stats, linjax.size(0.6))
    again = linjax.collect(net, once, [x], metric="identity")
    twice = linjax.fold(once, again, linjax.size(0.6))
    assert linjax.count(twice) <= 0.6 * linjax.count(once)
    assert relative(net.apply(twice, x), net.apply(once, x)) < 1.0
    with pytest.warns(linjax.FoldWarning, match="folded since"):
        assert linjax.fold(once, stats, linjax.size(0.6)) is once


def test_the_optimizers_state_is_carried_over():
    apply, params, x = build(Plan(2, 2, (FIRST, SECOND), "none", "flatten", 7))
    x = inputs(x)
    _, stats = collected(apply, params, x)
    small, report = linjax.fold(params, stats, linjax.size(0.5), details=True)
    marked, carried = carried_over(params, small, report)
    first, second = (np.asarray(report.sites[f"stage{i}"].kept) for i in range(2))
    kernel = np.asarray(marked["stage1"]["kernel"])[:, :, first][..., second]
    got = np.asarray(carried["stage1"]["kernel"])[:, :, : len(first), : len(second)]
    np.testing.assert_array_equal(got, kernel)
    rows = np.asarray(marked["head"]).reshape(-1, 6, 3)[:, second].reshape(-1, 3)
    np.testing.assert_array_equal(np.asarray(carried["head"])[: len(rows)], rows)
