"""``fold`` refuses what doesn't fit, by path and expectation, and never changes its input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3)).astype(np.float32)


def apply(p, x):
    return jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"]) @ p["b"]["kernel"]


def start(width=40, dtype=jnp.float32):
    return {
        "a": {
            "kernel": jnp.asarray(RNG.normal(size=(3, width)), dtype),
            "bias": jnp.full(width, 20.0, dtype),
        },
        "b": {"kernel": jnp.asarray(RNG.normal(size=(width, 2)), dtype)},
    }


PARAMS = start()
NET = linjax.trace(apply, PARAMS, X[:1])
STATS = linjax.collect(NET, PARAMS, [X])
LIGHT = linjax.collect(NET, PARAMS, [X], second_moments=False)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: linjax.threshold(1.5), linjax.LinjaxError, r"rate = 1.5, expected .* \[0, 1\]"),
        (lambda: linjax.threshold(float("nan")), linjax.LinjaxError, "rate = nan"),
        (lambda: linjax.threshold(0.5, layers=1.5), linjax.LinjaxError, "layers = 1.5"),
        (lambda: linjax.threshold(0.5, layers="best"), linjax.LinjaxError, "'best'"),
        (lambda: linjax.size(0.0), linjax.LinjaxError, "fraction = 0.0"),
        (lambda: linjax.size(0.1, round_to=0), linjax.LinjaxError, "round_to = 0"),
        (lambda: linjax.tolerance(-1.0), linjax.LinjaxError, "error = -1.0"),
        (lambda: linjax.published_size(2.0), linjax.LinjaxError, "fraction = 2.0"),
        (lambda: linjax.fold(PARAMS, {"a": 1}), linjax.EvidenceError, "got dict"),
        (lambda: linjax.fold(PARAMS, STATS, 0.5), linjax.LinjaxError, "0.5 is no rule"),
        (lambda: linjax.fold(PARAMS, LIGHT), linjax.EvidenceError, "second_moments=True"),
        (
            lambda: linjax.fold(start(41), STATS),
            linjax.EvidenceError,
            "collected on folded parameters",
        ),
        (
            lambda: linjax.fold({"a": PARAMS["a"], "c": PARAMS["b"]}, STATS),
            linjax.StructureError,
            "c/kernel: not a parameter of this network",
        ),
        (
            lambda: linjax.fold({"a": {"kernel": jnp.zeros((3, 40))}, "b": PARAMS["b"]}, STATS),
            linjax.StructureError,
            "a/bias: missing",
        ),
        (
            lambda: linjax.fold(jax.tree.map(lambda v: v * jnp.nan, PARAMS), STATS),
            linjax.StructureError,
            "values aren't finite",
        ),
        (
            lambda: NET.apply(PARAMS | {"b": {"kernel": jnp.zeros((7, 2))}}, X),
            linjax.StructureError,
            "b/kernel, axis 0: 7 entries, expected 40",
        ),
        (lambda: linjax.prune(PARAMS, STATS, keep=-1.0), linjax.LinjaxError, "keep = -1.0"),
        (lambda: linjax.prune(PARAMS, STATS, keep=0.5, scope="x"), linjax.LinjaxError, "scope"),
        (lambda: linjax.score(PARAMS, None), linjax.EvidenceError, "got NoneType"),
    ],
)
def test_errors_name_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_fold_changes_nothing_that_it_was_given():
    before = jax.tree.map(np.array, PARAMS)
    folded = linjax.fold(PARAMS, STATS, linjax.threshold(1.0))
    assert linjax.count(folded) < linjax.count(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, before, PARAMS)


def test_a_fold_that_does_not_pay_says_so_and_returns_its_input():
    with pytest.warns(linjax.FoldWarning, match="nothing was folded"):
        same, report = linjax.fold_and_report(PARAMS, STATS, linjax.threshold(1.0, layers=41))
    assert same is PARAMS and report.after == report.before
    assert len(report.sites["a"].kept) == 40


def test_evidence_from_before_a_fold_changes_nothing():
    folded = linjax.fold(PARAMS, STATS, linjax.threshold(1.0))
    with pytest.warns(linjax.FoldWarning, match="collect again"):
        assert linjax.fold(folded, STATS, linjax.size(0.01)) is folded


def test_other_activations_are_left_alone_by_the_published_rule():
    def smooth(p, x):
        return jax.nn.gelu(x @ p["a"]["kernel"] + p["a"]["bias"]) @ p["b"]["kernel"]

    net = linjax.trace(smooth, PARAMS, X[:1])
    stats = linjax.collect(net, PARAMS, [X], metric="identity")  # its logits are saturated
    with pytest.warns(linjax.FoldWarning, match=r"a \(gelu"):
        assert linjax.fold(PARAMS, stats, linjax.threshold(0.9)) is PARAMS
    folded = linjax.fold(PARAMS, stats, linjax.tolerance(0.01))
    assert linjax.count(folded) < 20
    np.testing.assert_allclose(
        jax.jit(net.apply)(folded, X), smooth(PARAMS, X), rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", [linjax.threshold(1.0), linjax.size(0.3), linjax.tolerance(0.05)])
def test_dtypes_are_kept(dtype, rule):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    x = X.astype(jnp.dtype(dtype))
    net = linjax.trace(apply, params, x[:1])
    folded = linjax.fold(params, linjax.collect(net, params, [x], metric="identity"), rule)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(folded)} == {dtype}
    tolerance = 1e-3 if dtype == "float32" else 0.1
    got, want = (
        np.asarray(f, np.float64)
        for f in (jax.jit(net.apply)(folded, x), jax.jit(apply)(params, x))
    )
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def test_pruning_removes_the_units_that_fire_least():
    bias = jnp.where(jnp.arange(40) % 4 == 0, -20.0, 20.0)
    params = {"a": PARAMS["a"] | {"bias": bias}, "b": PARAMS["b"]}
    stats = linjax.collect(NET, params, [X], second_moments=False)
    pruned = linjax.prune(params, stats, keep=0.75)
    np.testing.assert_array_equal(pruned["a"]["bias"], np.full(30, 20.0))
    np.testing.assert_allclose(NET.apply(pruned, X), apply(params, X), rtol=1e-5, atol=1e-3)
    for scope in ("network", "layer"):
        assert linjax.prune(params, stats, keep=0.0, scope=scope)["a"]["bias"].shape == (1,)
