"""Planted channels: what is dead, a copy of another's or always on goes without an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.program import pytree
from tests.fold.images import FIRST, NETWORKS, SECOND, collected, inputs, relative
from tests.properties.convnets import Plan, build


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
    ("norm", "end"), [("none", "flatten"), ("before", "mean"), ("after", "flatten")]
)
def test_dead_and_proportional_channels_go(norm, end):
    stages = (FIRST._replace(norm=norm), SECOND._replace(norm=norm))
    apply, params, x = build(Plan(2, 2, stages, "none", end, 3))
    params, x = planted(params, norm), inputs(x)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    assert [len(report.sites[f"stage{i}"].kept) for i in range(2)] == [6, 4]
    if norm != "after":  # there what is never on is a constant, and may be kept for its twin
        assert all(0 not in change.kept for change in report.sites.values())
    assert relative(jax.jit(net.apply)(small, x), jax.jit(apply)(params, x)) < 2e-3


@pytest.mark.parametrize("kind", ["unet", "towers"])
def test_planted_channels_go_from_all_that_read_them(kind):
    """Channel 0 is never on, 3 is twice channel 1: in the shared kernel, too."""
    apply, params, x = NETWORKS[kind]()
    name, other = ("left", "right") if kind == "towers" else ("down", "deep")
    own = params[name]
    own["kernel"] = own["kernel"].at[..., 3].set(2 * own["kernel"][..., 1])
    own["bias"] = own["bias"].at[3].set(2 * own["bias"][1]).at[0].set(-60.0)
    if kind == "unet":  # batch norm behind the concatenation tells the two apart, but for these
        for key, factor in (("mean", 2), ("shift", 2), ("var", 4), ("scale", 2)):
            leaf = params["norm"][key]
            params["norm"][key] = leaf.at[12].set(factor * leaf[10])
        params["norm"]["shift"] = params["norm"]["shift"].at[9].set(-60.0)
    x = inputs(x)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    assert len(report.sites[name].kept) == 4 and 0 not in report.sites[name].kept
    assert len(report.sites[other].kept) == report.sites[other].before
    assert relative(jax.jit(net.apply)(small, x), jax.jit(apply)(params, x)) < 2e-3


def test_dead_channels_of_all_groups_go():
    """One in each of three groups never fires; a fourth has to stay, having no companions."""
    apply, params, x = NETWORKS["groups"]()
    shift = params["block"]["norm"]["shift"]
    params["block"]["norm"]["shift"] = shift.at[jnp.array([1, 2, 6, 11])].set(-60.0)
    x = inputs(x)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    kept = report.sites["block/first"].kept
    assert kept.shape == (3, 3)
    assert small["block"]["second"].shape[-2:] == (3, 9)
    assert 2 not in kept[1] and 3 not in kept[2]
    assert relative(jax.jit(net.apply)(small, x), jax.jit(apply)(params, x)) < 2e-3


@pytest.mark.parametrize("kind", ["scanned", "ensemble"])
def test_units_of_every_repeat_go_where_they_are_copies(kind):
    """In each layer or member another unit is a copy, and another one is never on."""
    apply, params, x = NETWORKS[kind]()
    name = "up" if kind == "scanned" else "a"
    for n in range(len(params[name])):
        params[name] = params[name].at[n, :, n].set(params[name][n, :, 7])
        params["shift"] = params["shift"].at[n, n].set(params["shift"][n, 7])
        params["shift"] = params["shift"].at[n, n + 3].set(-60.0)
    x = inputs(x, 300)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    kept = report.sites[name].kept
    assert kept.shape == (len(params[name]), params[name].shape[-1] - 2)
    for n, own in enumerate(kept):
        assert n + 3 not in own and not {n, 7} <= set(own.tolist())
    assert relative(jax.jit(net.apply)(small, x), jax.jit(apply)(params, x)) < 2e-3


@pytest.mark.parametrize("pool", ["none", "mean"])
@pytest.mark.parametrize(("padding", "stride"), [("SAME", 2), ("VALID", 1), ("explicit", 2)])
def test_channels_that_are_always_on_travel_without_activation(padding, pool, stride):
    """Exactly, at borders too: one channel that is kept tells these from all other places."""
    stages = (
        FIRST._replace(pool=pool, window=1),
        SECOND._replace(padding=padding, stride=stride),
    )
    apply, params, x = build(Plan(2, 2, stages, "none", "mean", 5))
    params["stage0"]["bias"] = params["stage0"]["bias"].at[jnp.array([1, 2, 3, 4, 6])].set(9.0)
    x = inputs(x, 300)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1.5e-2))
    change = report.sites["stage0"]
    assert len(change.kept) + change.linears < 8
    assert relative(jax.jit(net.apply)(small, x), jax.jit(apply)(params, x)) < 3e-2


def test_linear_channels_are_as_few_as_the_rank():
    stages = (
        FIRST._replace(pool="none"),
        SECOND._replace(window=1, channels=2, activation="leaky_relu"),
    )
    apply, params, x = build(Plan(2, 2, stages, "none", "flatten", 5))
    params["stage0"]["bias"] = params["stage0"]["bias"].at[2:].set(60.0)
    x = inputs(x)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(2e-3))
    change = report.sites["stage0"]
    assert len(change.kept) <= 2 and change.linears <= 2
    assert relative(jax.jit(net.apply)(small, x), jax.jit(apply)(params, x)) < 4e-3


def test_constants_are_taken_up_by_biases_where_nothing_is_padded():
    """A channel that is the same everywhere goes in front of a window that stays inside."""
    stages = (FIRST._replace(pool="none"), SECOND)
    apply, params, x = build(Plan(2, 2, stages, "none", "flatten", 5))
    own = params["stage0"]
    own["kernel"] = own["kernel"].at[..., 2].set(0.0)
    own["bias"] = own["bias"].at[2].set(0.7)
    x = inputs(x)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-3))
    assert 2 not in report.sites["stage0"].kept
    assert relative(jax.jit(net.apply)(small, x), jax.jit(apply)(params, x)) < 2e-3


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
    np.testing.assert_allclose(jax.jit(apply)(params, x), plain(by_hand, x), atol=2e-4)
    errors = []
    for function, tree in ((apply, params), (plain, by_hand)):
        net, stats = collected(function, tree, x)
        small = linjax.fold(tree, stats, linjax.size(0.6))
        errors.append(relative(jax.jit(net.apply)(small, x), function(tree, x)))
    assert 0.6 < errors[0] / errors[1] < 1.6


@pytest.mark.parametrize("kind", ["unet", "mobile", "residual", "channels_first"])
def test_pruning_adds_no_leaves(kind):
    """What is never refitted needs no biases."""
    apply, params, x = NETWORKS[kind]()
    net, stats = collected(apply, params, inputs(x))
    small = linjax.prune(params, stats, keep=0.7, scope="layer")
    assert linjax.count(small) < linjax.count(params)
    sizes = {p: v.shape for p, v in pytree.flatten(small).items()}
    assert set(sizes) <= set(pytree.flatten(params))
    assert jax.jit(net.apply)(small, x).shape == jax.jit(apply)(params, x).shape


@pytest.mark.parametrize("seed", range(6))
def test_units_that_nothing_reads_go_first_however_much_they_say_of_others(seed):
    rng = np.random.default_rng(seed)
    m, live = 12, 6 + seed % 3
    params = {
        "in": jnp.asarray(rng.normal(size=(6, m)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=m) / 2, jnp.float32),
        "out": jnp.asarray(rng.normal(size=(m, 3)), jnp.float32).at[live:].set(0),
    }
    # Each of the others is a sum of live units, as far as ReLUs are linear: worth more alone.
    mixed = params["in"][:, :live] @ jnp.asarray(rng.random((live, m - live)), jnp.float32)
    params["in"] = params["in"].at[:, live:].set(mixed)

    def apply(p, x):
        return jax.nn.relu(x @ p["in"] + p["bias"]) @ p["out"]

    x = jnp.asarray(rng.normal(size=(200, 6)), jnp.float32)
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    wanted = (live * 10 + 3.5) / linjax.count(params)  # a bias behind them is reserved
    small, report = linjax.fold_and_report(params, stats, linjax.size(wanted))
    assert report.sites["in"].kept.tolist() == list(range(live))
    assert report.predicted < 1e-6
    np.testing.assert_allclose(net.apply(small, x), apply(params, x), rtol=1e-4, atol=1e-4)
