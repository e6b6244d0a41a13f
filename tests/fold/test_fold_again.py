"""What a fold returns is a network like any other: collected, folded, lumped, saved again."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.baselines import pruned_and_refitted
from linjax.dims.spelled import spelled
from linjax.program import pytree
from tests.properties.architectures import KINDS, make

FIRST = (
    linjax.threshold(0.9), linjax.threshold(1.0, layers=1), linjax.size(0.6), linjax.size(0.35)
)  # fmt: skip
SEEDS = (0, 3, 5, 9, 10, 16, 57, 61, 83)  # every kind of part at least once
MORE = (4, 12, 13, 64, 74, 82, 92)  # other networks of the same parts


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        yield


def relative(got, want):
    got, want = np.asarray(got), np.asarray(want)
    spread = max(np.linalg.norm(want - want.mean(0)), 1e-9 * np.linalg.norm(want), 1e-30)
    return float(np.linalg.norm(got - want) / spread)


def drawn(seed):
    rng = np.random.default_rng(seed)
    return make(seed, [str(kind) for kind in rng.choice(KINDS, size=rng.integers(1, 3))])


def check_again(net, small, x, tmp_path):
    """Checks all that can be done with a folded network; returns measured errors by predicted."""
    apply = jax.jit(net.apply)
    want = apply(small, x)
    plain = pytree.unflatten(spelled(net.network, pytree.flatten(small)), like=small)
    assert relative(apply(plain, x), want) < 1e-9
    again = linjax.collect(net, small, [x], metric="identity")
    linjax.recoverability(small, again)
    net.check(linjax.prune(small, again, keep=0.7))
    assert relative(apply(linjax.prune(small, again, keep=1.0), x), want) < 1e-9
    try:
        net.check(pruned_and_refitted(small, again, linjax.size(0.7)))
    except linjax.LinjaxError as error:
        assert "original" in str(error) or "least" in str(error)
    found = []
    for rule in (linjax.size(0.6), linjax.tolerance(0.05)):
        try:
            smaller, report = linjax.fold_and_report(small, again, rule)
        except linjax.LinjaxError as error:
            assert "smallest network" in str(error)
            continue
        net.check(smaller)
        most = 0.6 if isinstance(rule, type(linjax.size(0.5))) else 1.0
        assert linjax.count(smaller) <= most * linjax.count(small)
        found.append((relative(apply(smaller, x), want), report.predicted or 0.0))
    assert relative(apply(linjax.lump(net, small), x), want) < 1e-4
    linjax.save(tmp_path / "small.linjax", net, small)
    assert relative(apply(linjax.load(tmp_path / "small.linjax")[1], x), want) < 1e-9
    return found


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    "seed", [*SEEDS, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MORE)]
)
def test_what_any_rule_returns_folds_again(seed, tmp_path):
    found = []
    with jax.enable_x64(True):
        network = drawn(seed)
        params, x = jax.tree.map(jnp.asarray, network.params), jnp.asarray(network.x)
        net = linjax.trace(network.apply_fn, params, x)
        stats = linjax.collect(net, params, [x], metric="identity")
        for rule in FIRST:
            try:
                small = linjax.fold(params, stats, rule)
            except linjax.LinjaxError as error:
                assert "smallest network" in str(error)
                continue
            if small is not params:
                found += check_again(net, small, x, tmp_path)
    assert found
    assert np.quantile([max(e - 1e-4, 0.0) / max(p, 1e-9) for e, p in found], 0.8) < 2.0


def test_offsets_reach_past_linear_coordinates():
    """Linear coordinates have no bias: what is rebuilt in front of them must not be lost."""
    rng = np.random.default_rng(0)

    def a(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)

    def apply(p, x):
        for name in ("a", "b", "c"):
            x = jax.nn.relu(x @ p[name]["w"] + p[name]["b"])
        return x @ p["o"]["w"] + p["o"]["b"]

    x, on = a(400, 12) * 20, jnp.where(jnp.arange(16) < 8, 6.0, 0.0)
    params = {
        "a": {"w": a(12, 16), "b": a(16) + on},
        "b": {"w": a(16, 14), "b": a(14) + 1.5 * on[:14]},
        "c": {"w": a(14, 12), "b": a(12) + 99.0},
        "o": {"w": a(12, 3), "b": a(3)},
    }
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    for first in (linjax.threshold(1.0), linjax.size(0.5)):
        small = linjax.fold(params, stats, first)
        again = linjax.collect(net, small, [x], metric="identity")
        for share in (0.9, 0.7):
            smaller, report = linjax.fold_and_report(small, again, linjax.size(share))
            error = linjax.compare(net, small, smaller, [x], metric="identity").error
            assert error < 1.3 * report.predicted


@pytest.mark.parametrize("rule", [linjax.threshold(0.9), linjax.size(0.5)])
def test_a_whole_size_changes_nothing(rule):
    network = drawn(5)
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), network.params)
    x = jnp.asarray(network.x, jnp.float32)
    net = linjax.trace(network.apply_fn, params, x)
    small = linjax.fold(params, linjax.collect(net, params, [x], metric="identity"), rule)
    again = linjax.collect(net, small, [x], metric="identity")
    same = linjax.fold(small, again, linjax.size(1.0))
    assert linjax.count(same) == linjax.count(small)
    np.testing.assert_allclose(net.apply(same, x), net.apply(small, x), rtol=1e-5, atol=1e-6)


def test_a_branch_that_keeps_linear_channels_alone_is_collected_again():
    """What its reader reads are no coordinates at all, and linear ones."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])), jnp.float32)

    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def apply(p, x):
        always_on = jax.nn.relu(convolve(x, p["c1"]) + 9.0)
        both = [convolve(jax.nn.relu(convolve(x, p["b1"])), p["b2"]), convolve(always_on, p["c2"])]
        return convolve(jax.nn.relu(jnp.concatenate(both, -1)), p["out"])

    shapes = {"b1": (1, 1, 3, 6), "b2": (3, 3, 6, 8), "c1": (1, 1, 3, 6), "c2": (3, 3, 6, 8)}
    params = {name: normal(*shape) for name, shape in shapes.items()} | {"out": normal(3, 3, 16, 4)}
    x = jnp.asarray(rng.normal(size=(200, 4, 4, 3)), jnp.float32)
    net = linjax.trace(apply, params, x[:2])
    alone = {"seen": False}
    for share in (0.7, 0.5, 0.35, 0.25, 0.15):
        small = linjax.fold(params, collected(net, params, x), linjax.size(share))
        alone["seen"] |= any(n not in small and f"{n}_linear" in small for n in ("b2", "c1", "c2"))
        again = linjax.fold(small, collected(net, small, x), linjax.size(0.8))
        assert linjax.count(again) < linjax.count(small)
        assert np.isfinite(net.apply(again, x)).all()
    assert alone["seen"]


def collected(net, params, x):
    return linjax.collect(net, params, [x], metric="identity")
