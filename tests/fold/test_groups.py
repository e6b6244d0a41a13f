"""Folding convolutions with groups: as many channels stay in each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import linjax
from linjax.fold.channels.groups import evened
from linjax.fold.rivals import magnitude, pruned_and_refitted
from tests.fold.test_channels import FIRST, carried_over, collected, inputs, relative
from tests.properties.convnets import Plan, build


def block(rows=240, end="mean"):
    """A pointwise convolution, one with three groups, a pointwise one and one with two groups."""
    apply, params, x = build(Plan(2, 2, (FIRST,), "groups", end, 5))
    return apply, params, inputs(x, rows)


def test_predicted_error_is_measured_error():
    apply, params, x = block(480, "flatten")
    net, stats = collected(apply, params, x)
    assert {site.name: site.groups for site in net.graph.channels} == {
        "stage0": 1, "block/first": 3, "block/second": 3, "block/third": 2, "block/fourth": 2,
    }  # fmt: skip
    known = linjax.frontier(params, stats)
    for share in (0.8, 0.5):
        small, report = linjax.fold(params, known, linjax.size(share), details=True)
        assert report.after == linjax.count(small) <= share * report.before
        assert all(len(report.sites[s.name].kept) % s.groups == 0 for s in net.graph.channels)
        measured = relative(net.apply(small, x), apply(params, x))
        assert 0.4 * measured < report.predicted < 2.5 * measured + 1e-3


def test_dead_channels_of_all_groups_go():
    """One in each of three groups never fires; a fourth has to stay, having no companions."""
    apply, params, x = block()
    own = params["block"]
    own["norm"]["shift"] = own["norm"]["shift"].at[jnp.array([1, 2, 6, 11])].set(-60.0)
    _, stats = collected(apply, params, x)
    small, report = linjax.fold(params, stats, linjax.tolerance(1e-3), details=True)
    kept = report.sites["block/first"].kept
    assert len(kept) == 9 and np.bincount(kept // 4).tolist() == [3, 3, 3]
    assert small["block"]["second"].shape[-2:] == (3, 9)
    assert not {6, 11} & set(kept.tolist())


def test_what_is_left_in_a_group_is_refitted_from_it():
    """Behind a fold every group's kernel is least squares on the channels that its group kept."""
    apply, params, x = block()
    net, stats = collected(apply, params, x)
    small, report = linjax.fold(params, stats, linjax.size(0.6), details=True)
    rivals = [
        method(params, stats, linjax.size(0.6)) for method in (magnitude, pruned_and_refitted)
    ]
    y = apply(params, x)
    ours, *theirs = (relative(net.apply(p, x), y) for p in (small, *rivals))
    assert ours < min(theirs)
    assert all(linjax.count(p) <= 0.6 * report.before for p in rivals)
    better = linjax.compress(net, params, [x], linjax.size(0.6), metric="identity", joint=False)
    assert relative(net.apply(better, x), y) < ours


def test_widths_round_to_multiples_that_groups_have_too():
    apply, params, x = block()
    _, stats = collected(apply, params, x)
    _, report = linjax.fold(params, stats, linjax.size(0.6, round_to=2), details=True)
    assert len(report.sites["block/first"].kept) % 6 == 0


def test_pruning_leaves_groups_alike():
    mask = np.array([True, False, False, False, True, True, True, False, False])
    even = np.array([True, True, False, False, True, True, True, True, False])
    np.testing.assert_array_equal(evened(mask, 3), even)
    apply, params, x = block()
    net, stats = collected(apply, params, x)
    small = linjax.prune(params, stats, 0.5)
    assert net.apply(small, x).shape == apply(params, x).shape
    assert linjax.count(small) < linjax.count(params)


def test_folded_networks_fold_again_and_are_kept(tmp_path):
    apply, params, x = block()
    net, stats = collected(apply, params, x)
    once = linjax.fold(params, stats, linjax.size(0.7))
    linjax.save(tmp_path / "once", net, once)
    again, loaded = linjax.load(tmp_path / "once", apply)
    np.testing.assert_array_equal(again.apply(loaded, x), net.apply(once, x))
    twice = linjax.fold(once, linjax.collect(net, once, [x]), linjax.size(0.6))
    assert linjax.count(twice) <= 0.6 * linjax.count(once)
    assert relative(net.apply(twice, x), net.apply(once, x)) < 1.0


def test_the_optimizers_state_follows_each_group():
    apply, params, x = block()
    _, stats = collected(apply, params, x)
    small, report = linjax.fold(params, stats, linjax.size(0.5), details=True)
    marked, carried = carried_over(params, small, report)
    carried = carried["block"]["second"]
    first, second = (report.sites[f"block/{n}"].kept for n in ("first", "second"))
    was = np.asarray(marked["block"]["second"])  # a group has 4 inputs and 3 outputs
    for column, output in enumerate(second):
        own = first[first // 4 == output // 3] % 4
        np.testing.assert_array_equal(carried[..., column], was[:, :, own, output])


def test_groups_that_do_not_fit_are_named():
    apply, params, x = block()
    net = linjax.trace(apply, params, x[:2])
    params["block"]["second"] = params["block"]["second"][..., :-1]
    with pytest.raises(linjax.StructureError, match="in each of 3 groups"):
        net.apply(params, x)


class Block(nn.Module):
    """A residual block with a convolution of eight groups, as in ResNeXt."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        inner = nn.relu(nn.Conv(32, (1, 1))(x))
        inner = nn.relu(nn.Conv(32, (3, 3), feature_group_count=8)(inner))
        x = nn.relu(x + nn.Conv(16, (1, 1))(inner))
        return nn.Dense(3)(x.mean((1, 2)))


def test_a_module_with_groups_folds():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(240, 6, 6, 2)), jnp.float32)
    model = Block()
    params = model.init(jax.random.key(0), x[:1])
    net = linjax.trace(model.apply, params, x[:2])
    assert {site.name: site.groups for site in net.graph.channels} == {"Conv_1": 8, "Conv_2": 8}
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.6))
    assert linjax.count(small) <= 0.6 * linjax.count(params)
    assert relative(net.apply(small, x), model.apply(params, x)) < 0.6
