"""Random convolutional networks: what has lost channels computes what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings

import linjax
from linjax.program import pytree
from tests.properties import convnets

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")

WORSE = 6.0
"""How many times its prediction an error may be: to first order errors of layers add."""
RARE = 0.02
"""Error that no prediction sees."""
FEW = settings(max_examples=6 if settings.default.max_examples < 100 else 200)


def made(plan, dtype, rows=120):
    """A network, compiled, with inputs and a trace."""
    apply, params, x = convnets.build(plan, dtype)
    assume(0 not in jax.eval_shape(apply, params, x).shape)
    x = jnp.asarray(np.random.default_rng(plan.seed).normal(size=(rows, *x.shape[1:])), dtype)
    net = linjax.trace(apply, params, x[:2])
    assume(net.network.foldable)
    run = jax.jit(apply)
    assume(np.isfinite(run(params, x)).all())  # a mean over no places isn't a number
    return run, params, x, net


def planted(plan, params):
    """Channel 0 of every stage is a copy of channel 1; which of them nothing can tell apart."""
    flat = {path: np.array(leaf) for path, leaf in pytree.flatten(params).items()}
    for path, leaf in flat.items():
        if path[0].startswith("stage"):
            leaf[..., 0] = leaf[..., 1]
    return pytree.unflatten({path: jnp.asarray(leaf) for path, leaf in flat.items()})


@FEW
@given(convnets.plans)
def test_sites_are_found_or_refused_with_a_reason(plan):
    apply, params, x, net = made(plan, np.float32, 4)
    names = [site.name for site in net.network.sites]
    known = {*names, *(refusal.name for refusal in net.network.refusals)}
    stages = {f"stage{i}" for i in range(len(plan.stages))}
    assert stages <= {name.split("/")[0].split("#")[0] for name in known}
    if "block" in params:
        assert "block/first" in names
    if plan.block in ("dense", "skip", "inception"):
        assert "block/second" in names
    if plan.block == "groups":
        assert {"block/second", "block/third"} <= set(names)
    own = jax.jit(lambda p, x: net.run(p, x).outputs)(pytree.unflatten(pytree.flatten(params)), x)
    np.testing.assert_allclose(own, apply(params, x), rtol=1e-3, atol=1e-4)


ONE_PLACE = convnets.Plan(
    space=1, inputs=1, block="growing", end="convolution", seed=359,
    stages=(
        convnets.Stage(5, 1, 1, 1, "SAME", False, "none", "relu", True, "same mean"),
        convnets.Stage(6, 1, 1, 1, "SAME", False, "after", "gelu", False, "mean"),
        convnets.Stage(8, 1, 2, 1, "SAME", True, "before", "relu", True, "same mean"),
    ),
)  # fmt: skip
"""Windows of three read one place: two taps of three see padding alone."""
CONSTANT = convnets.Plan(
    space=2, inputs=2, block="growing", end="convolution", seed=359,
    stages=(
        convnets.Stage(5, 2, 2, 1, "VALID", False, "none", "gelu", True, "same mean"),
        convnets.Stage(6, 1, 2, 1, "SAME", False, "after", "gelu", False, "mean"),
        convnets.Stage(8, 1, 2, 2, "explicit", True, "before", "leaky_relu", True, "same mean"),
    ),
)  # fmt: skip
"""The last stage sees padding alone: all behind it is constant, up to rounding."""


@FEW
@example(ONE_PLACE)
@example(CONSTANT)
@given(convnets.plans)
def test_folds_meet_their_size_and_their_prediction(plan):
    apply, params, x, net = made(plan, np.float32)
    stats = linjax.collect(net, params, [x[:60], x[60:]], metric="identity")
    known = linjax.frontier(params, stats)
    for share in (0.8, 0.5):
        try:
            small, report = linjax.fold_and_report(params, known, linjax.size(share))
        except linjax.LinjaxError as error:
            assert "the smallest network" in str(error)
            continue
        assert linjax.count(small) <= share * linjax.count(params)
        y = np.asarray(jax.jit(net.apply)(small, x))
        assert np.isfinite(y).all()
        want = np.asarray(apply(params, x))
        spread = max(np.linalg.norm(want - want.mean(0)), 1e-2 * np.linalg.norm(want), 1e-30)
        assert np.linalg.norm(y - want) / spread <= WORSE * report.predicted + RARE


@FEW
@given(convnets.plans)
def test_copies_go_without_an_error(plan):
    with jax.enable_x64(True):
        _, params, x, net = made(plan, np.float64)
        params = planted(plan, params)
        stats = linjax.collect(net, params, [x[:60], x[60:]], metric="identity")
        small, report = linjax.fold_and_report(params, stats, linjax.tolerance(1e-4))
        found = linjax.compare(net, params, small, [x], metric="identity")
        assert found.error <= 0.02 or found.largest < 1e-3
        sites = {site.name: site for site in net.network.foldable if not site.fixed}
        for i in range(len(plan.stages)):
            change = report.sites.get(f"stage{i}")
            alone = f"stage{i}" in sites and not sites[f"stage{i}"].beside
            behind = i + 1 < len(plan.stages) or plan.block in ("none", "groups", "fork")
            if change is not None and alone and behind and change.before > 2:
                assert not {0, 1} <= set(np.ravel(change.kept).tolist())


@FEW
@given(convnets.plans)
def test_what_is_pruned_runs_and_is_narrower(plan):
    """Rows of the readers are gone, and nothing is added."""
    apply, params, x, net = made(plan, np.float32, 24)
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.prune(params, stats, keep=0.6, scope="layer")
    got = jax.jit(net.apply)(small, x)
    assert np.isfinite(got).all() and got.shape == apply(params, x).shape
    assert set(pytree.flatten(small)) <= set(pytree.flatten(params)) | {
        net.network.constant(key) for key in net.network.varying
    }
