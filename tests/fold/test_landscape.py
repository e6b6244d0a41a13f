"""Plans over all sites: what is counted, what is rounded, and what can't be met."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.baselines import activity, magnitude, pruned_and_refitted
from linjax.program import pytree
from tests.fold.images import FIRST, SECOND, collected, known, relative
from tests.properties.convnets import Plan, build

KINDS = pytest.mark.parametrize("kind", ["unet", "groups", "mobile", "scanned"])


def made(kind, rows=400):
    apply, *rest = known(kind, rows)
    return jax.jit(apply), *rest


@functools.cache
def frontier(kind):
    _, params, _, _, stats = made(kind)
    return linjax.frontier(params, stats)


@KINDS
def test_operations_and_bytes_are_budgets(kind):
    apply, params, x, net, _ = made(kind)
    known = frontier(kind)
    fewer = linjax.fold(params, known, linjax.size(0.5, of="flops"))
    rule = linjax.size(0.5, of="flops")
    assert known.plan(rule).cost <= 0.5 * known.whole(rule)
    # There activations and sums count, too: a good part of all in networks so small.
    assert net.flops(fewer, x[:1]) < 0.7 * net.flops(params, x[:1])
    small = linjax.fold(params, known, linjax.size(0.5, of="bytes"))
    before, after = (sum(v.nbytes for v in jax.tree.leaves(p)) for p in (params, small))
    assert after <= 0.5 * before
    assert linjax.count(small) == linjax.count(linjax.fold(params, known, linjax.size(0.5)))
    assert relative(jax.jit(net.apply)(fewer, x), apply(params, x)) < 1.0


def test_operations_are_saved_where_images_are_large():
    """The first layers cost most operations, the last ones most parameters."""
    _, params, x, net, _ = made("towers")
    known = frontier("towers")
    by_count, by_flops = (
        linjax.fold(params, known, linjax.size(0.5, of=of)) for of in ("parameters", "flops")
    )
    assert net.flops(by_flops, x[:1]) < net.flops(by_count, x[:1])


@KINDS
def test_widths_are_rounded(kind):
    _, params, _, net, stats = made(kind)
    _, report = linjax.fold_and_report(params, stats, linjax.size(0.6, round_to=2))
    for site in net.network.foldable:
        change = report.sites[site.name]
        width = np.shape(change.kept)[-1]
        assert width % 2 == 0 or width < 2 or width == change.before
        assert change.linears % 2 == 0 or change.linears < 2


@KINDS
def test_sizes_that_cannot_be_met_name_the_smallest(kind):
    _, params, *_ = made(kind)
    known = frontier(kind)
    with pytest.raises(linjax.LinjaxError, match=r"the smallest network .*linjax\.size\(") as error:
        linjax.fold(params, known, linjax.size(0.001))
    smallest = float(str(error.value).rsplit("size(", 1)[1].split(")")[0])
    small = linjax.fold(params, known, linjax.size(min(smallest * 1.3, 1.0)))
    assert linjax.count(small) < linjax.count(params)


@KINDS
def test_a_frontier_is_the_fold_of_all_sizes(kind):
    _, params, _, _, stats = made(kind)
    known = frontier(kind)
    errors = known.errors([0.9, 0.7, 0.5])
    assert (np.diff(errors) > 0).all() and (errors < 1.2).all()
    assert f"{linjax.count(params):,} parameters before" in str(known)
    rule = linjax.size(0.7)
    for tree in (linjax.fold(params, stats, rule), linjax.fold(params, known, rule)):
        want = linjax.fold(params, known, rule)
        jax.tree.map(np.testing.assert_array_equal, tree, want)
    other = jax.tree.map(lambda w: 2 * w, params)
    with pytest.raises(linjax.StructureError, match="other values"):
        linjax.fold(other, known, rule)


@KINDS
def test_tolerances_bound_the_prediction(kind):
    _, params, *_ = made(kind)
    known, counts = frontier(kind), []
    for error in (0.05, 0.2, 0.6):
        plan = known.plan(linjax.tolerance(error))
        assert plan.error <= error
        counts.append(linjax.count(linjax.fold(params, known, linjax.tolerance(error))))
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0]


@pytest.mark.parametrize("kind", ["unet", "residual", "groups", "ensemble"])
def test_rivals_meet_the_size_and_are_worse(kind):
    apply, params, x, net, stats = made(kind, 400)
    errors = {}
    for method in (magnitude, activity, pruned_and_refitted, linjax.fold):
        small = method(params, stats, linjax.size(0.6))
        slack = 1.0 if method is linjax.fold else 1.1  # new biases
        assert linjax.count(small) <= slack * 0.6 * linjax.count(params)
        errors[method] = relative(jax.jit(net.apply)(small, x), apply(params, x))
    assert errors[linjax.fold] < 1.05 * errors[pruned_and_refitted]
    assert errors[linjax.fold] < errors[magnitude] and errors[linjax.fold] < errors[activity]


@pytest.mark.parametrize("scope", ["layer", "network"])
@pytest.mark.parametrize("kind", ["unet", "groups", "scanned", "residual"])
def test_pruning_takes_what_is_least_often_on(kind, scope):
    apply, params, x, net, stats = made(kind)
    small = linjax.prune(params, stats, keep=0.6, scope=scope)
    assert linjax.count(small) < linjax.count(params)
    assert set(pytree.flatten(small)) <= set(pytree.flatten(params))
    assert jax.eval_shape(net.apply, small, x) == jax.eval_shape(apply, params, x)


def test_pruning_takes_rows_of_a_shared_kernel():
    _, params, _, _, stats = made("unet")
    small = linjax.prune(params, stats, keep=0.6)
    left = [small[name]["kernel"].shape[-1] for name in ("deep", "down")]
    assert small["last"]["kernel"].shape[2] == sum(left) + 2 == small["norm"]["mean"].shape[0]


def test_the_published_rule_says_that_it_folds_dense_chains():
    _, params, _, _, stats = made("groups")
    with pytest.warns(linjax.FoldWarning, match="chains of dense layers"):
        assert linjax.fold(params, stats, linjax.threshold(0.5)) is params


@pytest.mark.parametrize("seed", [1, 3])
def test_errors_that_are_alike_all_over_an_image_are_told(seed):
    """Smooth images, and a mean over space: errors of an image's places add up."""
    wide = FIRST._replace(pool="none")
    stages = (wide, wide._replace(channels=10), SECOND)
    apply, params, _ = build(Plan(2, 2, stages, "none", "mean", seed))
    coarse = jnp.asarray(np.random.default_rng(0).normal(size=(240, 3, 3, 2)), jnp.float32)
    x = jax.image.resize(coarse, (240, 8, 8, 2), "linear")
    net, stats = collected(apply, params, x)
    known = linjax.frontier(params, stats)
    want = apply(params, x)
    for share in (0.8, 0.5):
        small, report = linjax.fold_and_report(params, known, linjax.size(share))
        measured = relative(jax.jit(net.apply)(small, x), want)
        assert 0.3 < report.predicted / measured < 3
