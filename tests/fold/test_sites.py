"""Sites of every kind fold by size, tolerance and compress: sizes are met, predictions hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import linjax
from linjax.program import pytree
from tests.fold.images import NETWORKS, carried_over, collected, inputs, known, relative

ALL = pytest.mark.parametrize("kind", NETWORKS)
QUICK = ("residual", "groups", "scanned")
EVERY_SLOW = pytest.mark.parametrize(
    "kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in NETWORKS]
)
SHARES = {"scanned": (0.8, 0.6)}  # errors of its layers travel through one another


@ALL
def test_sizes_are_met_and_predicted_errors_are_measured(kind):
    _, params, x, net, stats = known(kind)
    prices = linjax.frontier(params, stats)
    for share in SHARES.get(kind, (0.8, 0.5)):
        small, report = linjax.fold_and_report(params, prices, linjax.size(share))
        assert report.after == linjax.count(small) <= share * report.before
        measured = linjax.compare(net, params, small, [x], metric="identity").error
        assert 0.4 * measured < report.predicted < 2.5 * measured + 1e-3
        for site in net.network.foldable:
            kept = np.asarray(report.sites[site.name].kept)
            repeats = [net.network.layout.traced[d] for d in site.beside]
            assert kept.shape[:-1] == ((np.prod(repeats),) if repeats else ())
            assert (np.diff(kept, axis=-1) > 0).all()


@ALL
def test_the_whole_network_is_itself(kind):
    apply, params, x, net, stats = known(kind)
    with pytest.warns(linjax.FoldWarning, match="nothing was folded"):
        assert linjax.fold(params, stats, linjax.size(1.0)) is params
    own = jax.jit(lambda p, x: net.run(p, x).outputs)(pytree.unflatten(pytree.flatten(params)), x)
    np.testing.assert_allclose(own, jax.jit(apply)(params, x), rtol=1e-4, atol=1e-5)


@EVERY_SLOW
def test_compressed_networks_are_about_as_good_or_better(kind):
    apply, params, x, net, stats = known(kind)
    rule = linjax.size(0.6)
    once = linjax.fold(params, stats, rule)
    best = linjax.compress(
        net, params, [x], rule, metric="identity", joint=False, evidence=stats, progress=False
    )
    assert linjax.count(best) <= 0.6 * linjax.count(params)
    y = jax.jit(apply)(params, x)
    assert relative(jax.jit(net.apply)(best, x), y) <= 1.05 * relative(
        jax.jit(net.apply)(once, x), y
    )


@pytest.mark.parametrize("kind", ["unet", "mobile", "scanned"])
def test_folded_networks_fold_again_and_are_kept(kind, tmp_path):
    apply, params, x, net, stats = known(kind)
    once = linjax.fold(params, stats, linjax.size(0.7))
    with pytest.warns(linjax.FoldWarning, match="folded since"):
        assert linjax.fold(once, stats, linjax.size(0.6)) is once
    linjax.save(tmp_path / "once.linjax", net, once)
    again, loaded = linjax.load(tmp_path / "once.linjax", apply)
    np.testing.assert_array_equal(again.apply(loaded, x), net.apply(once, x))
    evidence = linjax.collect(net, once, [x], metric="identity")
    twice, report = linjax.fold_and_report(once, evidence, linjax.size(0.7))
    assert report.before == linjax.count(once)
    assert report.after == linjax.count(twice) <= 0.7 * linjax.count(once)
    assert relative(jax.jit(net.apply)(twice, x), jax.jit(net.apply)(once, x)) < 1.0


@ALL
def test_folded_networks_are_functions_like_any(kind):
    apply, params, x, net, stats = known(kind)
    small = linjax.fold(params, stats, linjax.size(0.6))
    y = net.apply(small, x)
    assert y.shape == jax.eval_shape(apply, params, x).shape and y.dtype == x.dtype
    np.testing.assert_allclose(jax.jit(net.apply)(small, x), y, rtol=1e-4, atol=1e-5)
    slopes = jax.jit(jax.grad(lambda p: jnp.sum(net.apply(p, x) ** 2)))(small)
    assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(slopes))
    assert jax.eval_shape(net.apply, small, x[:1]).shape[0] == 1


@ALL
def test_the_optimizers_state_follows(kind):
    _, params, _, _, stats = known(kind)
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.6))
    marked, carried = carried_over(params, small, report)
    old, new = pytree.flatten(marked), pytree.flatten(carried)
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, small)
    moved = [p for p in new if p in old and new[p].size < old[p].size and np.any(new[p])]
    assert moved
    for path in moved:  # every entry is some entry of the original's
        assert np.isin(new[path], [*np.ravel(old[path]), 0.0]).all()


def test_the_optimizers_state_keeps_the_entries_of_each_group():
    _, params, _, _, stats = known("groups")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.5))
    marked, carried = carried_over(params, small, report)
    first, second = (report.sites[f"block/{n}"].kept for n in ("first", "second"))
    was = np.asarray(marked["block"]["second"])  # a group has 4 inputs and 3 outputs
    each = second.shape[-1]
    for group in range(3):
        columns = slice(group * each, (group + 1) * each)
        want = was[..., 3 * group + second[group]][:, :, first[group]]
        np.testing.assert_array_equal(carried["block"]["second"][..., columns], want)


def test_the_optimizers_state_keeps_the_rows_of_a_shared_kernel():
    _, params, _, _, stats = known("unet")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.6))
    marked, carried = carried_over(params, small, report)
    down, deep = (np.asarray(report.sites[n].kept) for n in ("down", "deep"))
    read = np.concatenate([deep, [7, 8], 9 + down])
    np.testing.assert_array_equal(carried["norm"]["mean"], np.asarray(marked["norm"]["mean"])[read])


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("unet", ("norm", "mean"), r"norm/mean"),
        ("groups", ("block", "second"), r"block/"),
        ("mobile", ("wide", "bias"), r"wide"),
        ("scanned", ("shift",), r"up|shift"),
        ("ensemble", ("shift",), r"a|shift"),
    ],
)
def test_leaves_of_the_wrong_width_are_named(kind, path, message):
    apply, params, x = NETWORKS[kind]()
    net = linjax.trace(apply, params, x[:2])
    flat = pytree.flatten(params)
    flat[path] = flat[path][..., :-1]
    with pytest.raises(linjax.StructureError, match=message):
        net.apply(pytree.unflatten(flat), x)


@pytest.mark.parametrize("kind", ["residual", "towers"])
def test_the_measured_error_of_compress_is_within_the_tolerance(kind):
    _, params, x, net, _ = known(kind)
    rule = linjax.tolerance(0.2)
    small = linjax.compress(net, params, [x], rule, metric="identity", joint=False, progress=False)
    found = linjax.compare(net, params, small, [x[4::5]], metric="identity")
    assert 0.5 * 0.2 < found.error <= 0.2
    assert found.after < 0.9 * found.before


@pytest.mark.quick(5)
@pytest.mark.parametrize("kind", ["unet", "groups", "scanned", "ensemble", "mobile"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes(kind, dtype):
    apply, params, x = NETWORKS[kind]()
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda w: jnp.asarray(w, dtype), params)
        x = jnp.asarray(inputs(x, 200), dtype)
        net, stats = collected(apply, params, x)
        small = linjax.fold(params, stats, linjax.size(0.7))
        assert linjax.count(small) <= 0.7 * linjax.count(params)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(small)} == {dtype}
        y, own = (jnp.asarray(f(p, x), "float32") for f, p in ((apply, params), (net.apply, small)))
        assert relative(own, y) < 0.6


class Block(nn.Module):
    """A residual block with a convolution of eight groups, as in ResNeXt."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        inner = nn.relu(nn.Conv(32, (1, 1))(x))
        inner = nn.relu(nn.Conv(32, (3, 3), feature_group_count=8)(inner))
        x = nn.relu(x + nn.Conv(16, (1, 1))(inner))
        return nn.Dense(3)(x.mean((1, 2)))


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


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_modules_fold(kind):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(240, 6, 6, 2)), jnp.float32)
    if kind == "linen":
        model = Block()
        apply, params = model.apply, model.init(jax.random.key(0), x[:1])
        net = linjax.trace(apply, params, x[:2])
        names = {"Conv_0", "Conv_1", "Conv_2"}
    else:
        model = Inception(nnx.Rngs(0))
        net, params = linjax.from_nnx(model, x[:2])
        names = {"one", "three", "pooled", "head"}
    assert names == {site.name for site in net.network.foldable}
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.55))
    assert linjax.count(small) <= 0.55 * linjax.count(params)
    assert relative(jax.jit(net.apply)(small, x), jax.jit(net.apply)(params, x)) < 0.6
