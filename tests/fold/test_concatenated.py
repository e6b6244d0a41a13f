"""Folding channels that are concatenated: several sites' in one kernel, others' beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import linjax
from linjax.fold.channels.execute import apply_choices
from linjax.fold.channels.network import bare, read, skeleton
from linjax.fold.channels.plan import parameters, start
from linjax.fold.channels.surface import Choice
from linjax.graph import pytree
from tests.fold.test_channels import carried_over, collected, inputs, relative
from tests.properties.convnets import convolve, normalise, pooled


def unet(p, x):
    """An image is coarsened and refined; channels of the first step skip to the last but one."""
    fine = jax.nn.relu(convolve(x, p["down"]["kernel"], None, 1, 3) + p["down"]["bias"])
    deep = jax.nn.relu(convolve(pooled(fine, "max"), p["deep"]["kernel"], None, 1, 3))
    up = jax.image.resize(deep, (*fine.shape[:-1], deep.shape[-1]), "nearest")
    both = jnp.concatenate([up, x, fine], axis=-1)
    both = jax.nn.relu(normalise(both, p["norm"]))
    last = jax.nn.relu(convolve(both, p["last"]["kernel"], None, 1, 3) + p["last"]["bias"])
    return convolve(last, p["head"], None, 1, 1)


def towers(p, x):
    """Two convolutions side by side, flattened, in front of a network of dense layers."""
    left = jax.nn.relu(convolve(x, p["left"]["kernel"], None, 1, 3) + p["left"]["bias"])
    right = jax.nn.relu(convolve(x, p["right"]["kernel"], None, 1, 1) + p["right"]["bias"])
    both = pooled(jnp.concatenate([left, right], axis=-1), "max")
    hidden = jax.nn.relu(both.reshape(len(x), -1) @ p["hidden"]["kernel"] + p["hidden"]["bias"])
    return hidden @ p["head"]


def network(kind):
    rng = np.random.default_rng(3)

    def normal(*shape):
        fan = np.prod(shape[:-1])
        return jnp.asarray(rng.normal(size=shape) * np.sqrt(2 / fan), jnp.float32)

    def layer(*shape):
        return {"kernel": normal(*shape), "bias": 0.3 * normal(1, shape[-1])[0]}

    x = jnp.asarray(rng.normal(size=(6, 6, 6, 2)), jnp.float32)
    if kind == "towers":
        return towers, {
            "left": layer(3, 3, 2, 6),
            "right": layer(1, 1, 2, 5),
            "hidden": layer(9 * 11, 12),
            "head": normal(12, 3),
        }, x  # fmt: skip
    norm = {
        "mean": normal(1, 15)[0], "var": jnp.asarray(rng.uniform(0.5, 2, 15), jnp.float32),
        "scale": jnp.ones(15), "shift": normal(1, 15)[0],
    }  # fmt: skip
    return unet, {
        "down": layer(3, 3, 2, 6),
        "deep": {"kernel": normal(3, 3, 6, 7)},
        "norm": norm,
        "last": layer(3, 3, 15, 8),
        "head": normal(1, 1, 8, 3),
    }, x  # fmt: skip


KINDS = ("unet", "towers")


@pytest.mark.parametrize("kind", KINDS)
def test_predicted_error_is_measured_error(kind):
    apply, params, x = network(kind)
    x = inputs(x, 480)
    net, stats = collected(apply, params, x)
    known = linjax.frontier(params, stats)
    for share in (0.75, 0.4):
        small, report = linjax.fold(params, known, linjax.size(share), details=True)
        assert report.after == linjax.count(small) <= share * report.before
        measured = linjax.compare(net, params, small, [x], metric="identity").error
        assert 0.4 * measured < report.predicted < 2.5 * measured + 1e-3


def test_budgets_count_what_stands_beside_channels_that_fold():
    """Batch norm's entries of the input's channels, too; and biases where there are none yet."""
    apply, params, x = network("unet")
    net = linjax.trace(apply, params, x[:2])
    land = skeleton(bare(net.graph, pytree.flatten(params)))
    without_bias = params["deep"]["kernel"].shape[-1] + params["head"].shape[-1]
    assert parameters(land, start(land)) == linjax.count(params) + without_bias


@pytest.mark.parametrize("kind", KINDS)
def test_planted_channels_go_from_all_that_read_them(kind):
    """Channel 0 is never on, 3 is twice channel 1: in the shared kernel, too."""
    apply, params, x = network(kind)
    name, other = ("left", "right") if kind == "towers" else ("down", "deep")
    own = params[name]
    own["kernel"] = own["kernel"].at[..., 3].set(2 * own["kernel"][..., 1])
    own["bias"] = own["bias"].at[3].set(2 * own["bias"][1]).at[0].set(-60.0)
    if kind == "unet":  # batch norm behind the concatenation tells the two apart, but for these
        for key, factor in (("mean", 2), ("shift", 2), ("var", 4), ("scale", 2)):
            leaf = params["norm"][key]
            params["norm"][key] = leaf.at[12].set(factor * leaf[10])
    x = inputs(x)
    net, stats = collected(apply, params, x)
    small, report = linjax.fold(params, stats, linjax.tolerance(1e-3), details=True)
    assert len(report.sites[name].kept) == 4 and 0 not in report.sites[name].kept
    assert len(report.sites[other].kept) == report.sites[other].before
    assert relative(net.apply(small, x), apply(params, x)) < 2e-3


def test_linear_channels_of_several_branches_travel_together():
    """Channels that are always on, some of one branch and all of another's, keep no activation."""

    def apply(p, x):
        left = jax.nn.relu(convolve(x, p["left"]["kernel"], None, 1, 3) + p["left"]["bias"])
        right = jax.nn.relu(convolve(x, p["right"]["kernel"], None, 1, 1) + p["right"]["bias"])
        both = pooled(jnp.concatenate([right, x, left], axis=-1), "mean")
        return convolve(both, p["last"], None, 1, 2).mean((1, 2))

    _, params, x = network("towers")
    params = {name: params[name] for name in ("left", "right")}
    params["last"] = 0.2 * jnp.asarray(np.random.default_rng(5).normal(size=(2, 2, 13, 4)))
    params["left"]["bias"] = params["left"]["bias"].at[jnp.array([1, 4])].set(60.0)
    params["right"]["bias"] = jnp.full(5, 60.0)
    x = inputs(x, 400)
    net, stats = collected(apply, params, x)
    known = read(params, stats)
    made = {
        "left": Choice(np.array([0, 2, 3, 5]), np.eye(6)[:, [1, 4]]),
        "right": Choice(np.zeros(0, int), np.eye(5)),
    }
    small = pytree.unflatten(apply_choices(known, [made[s.name] for s in known.sites], ridge=1e-9))
    assert "kernel" not in small["right"] and small["right"]["kernel_linear"].shape[-1] == 5
    assert small["last"].shape == (2, 2, 13, 4)
    np.testing.assert_allclose(net.apply(small, x), apply(params, x), rtol=2e-5)


def test_pruning_takes_rows_of_the_shared_kernel():
    apply, params, x = network("unet")
    _, stats = collected(apply, params, inputs(x))
    small = linjax.prune(params, stats, 0.4)
    left = [small[name]["kernel"].shape[-1] for name in ("deep", "down")]
    assert small["last"]["kernel"].shape[2] == sum(left) + 2
    assert sum(left) < 13


@pytest.mark.parametrize("kind", KINDS)
def test_refits_in_order_are_about_as_good_or_better(kind):
    apply, params, x = network(kind)
    x = inputs(x, 480)
    net, stats = collected(apply, params, x)
    y = apply(params, x)
    once = linjax.fold(params, stats, linjax.size(0.4))
    better = linjax.compress(net, params, [x], linjax.size(0.4), metric="identity")
    assert linjax.count(better) <= 0.4 * linjax.count(params)
    assert relative(net.apply(better, x), y) <= 1.05 * relative(net.apply(once, x), y)


@pytest.mark.parametrize("kind", KINDS)
def test_folded_networks_fold_again_and_are_kept(kind, tmp_path):
    apply, params, x = network(kind)
    x = inputs(x)
    net, stats = collected(apply, params, x)
    once = linjax.fold(params, stats, linjax.size(0.7))
    linjax.save(tmp_path / "once.linjax", net, once)
    again, loaded = linjax.load(tmp_path / "once.linjax", apply)
    np.testing.assert_array_equal(again.apply(loaded, x), net.apply(once, x))
    again = linjax.collect(net, once, [x], metric="identity")
    twice, report = linjax.fold(once, again, linjax.size(0.6), details=True)
    assert report.after == linjax.count(twice) <= 0.6 * linjax.count(once)
    assert relative(net.apply(twice, x), net.apply(once, x)) < 1.0


def test_the_optimizers_state_follows_a_shared_kernel():
    apply, params, x = network("unet")
    x = inputs(x)
    _, stats = collected(apply, params, x)
    small, report = linjax.fold(params, stats, linjax.size(0.6), details=True)
    marked, carried = carried_over(params, small, report)
    down, deep, last = (np.asarray(report.sites[n].kept) for n in ("down", "deep", "last"))
    read = np.concatenate([deep, [7, 8], 9 + down])
    np.testing.assert_array_equal(carried["norm"]["mean"], np.asarray(marked["norm"]["mean"])[read])
    want = np.asarray(marked["last"]["kernel"])[:, :, read][..., last]
    got = np.asarray(carried["last"]["kernel"])[:, :, : len(read), : len(last)]
    np.testing.assert_array_equal(got, want)


def test_a_leaf_of_the_wrong_width_is_named():
    apply, params, x = network("unet")
    net = linjax.trace(apply, params, x[:2])
    params["norm"]["mean"] = params["norm"]["mean"][:-1]
    with pytest.raises(linjax.StructureError, match=r"norm/mean: shape \(14,\)"):
        net.apply(params, x)


class Inception(nnx.Module):
    """Three branches, concatenated and normalised."""

    def __init__(self, rngs: nnx.Rngs):
        self.one = nnx.Conv(2, 4, (1, 1), rngs=rngs)
        self.three = nnx.Conv(2, 6, (3, 3), rngs=rngs)
        self.pooled = nnx.Conv(2, 3, (1, 1), rngs=rngs)
        self.norm = nnx.BatchNorm(13, use_running_average=True, rngs=rngs)
        self.head = nnx.Conv(13, 5, (3, 3), padding="VALID", rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        mean = nnx.avg_pool(x, (3, 3), (1, 1), padding="SAME")
        branches = [nnx.relu(self.one(x)), self.three(x), nnx.relu(self.pooled(mean))]
        x = nnx.relu(self.norm(jnp.concatenate(branches, axis=-1)))
        return self.out(nnx.relu(self.head(x)).mean((1, 2)))


def test_a_module_with_branches_folds():
    model = Inception(nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(240, 6, 6, 2)), jnp.float32)
    net, params = linjax.from_nnx(model, x[:2])
    assert {site.name for site in net.graph.channels} == {"one", "three", "pooled", "head"}
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.5))
    assert linjax.count(small) <= 0.5 * linjax.count(params)
    assert relative(net.apply(small, x), model(x)) < 0.6
