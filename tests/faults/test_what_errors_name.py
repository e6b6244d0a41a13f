"""Errors name what isn't as it was traced, and the evidence that was given."""

import jax
import jax.numpy as jnp
import pytest

import linjax
from tests.arrays import normal

PARAMS = {
    "first": {"kernel": normal(0, 6, 20), "bias": jnp.ones(20)},
    "second": normal(1, 20, 16), "bias": jnp.ones(16), "out": normal(2, 16, 3),
}  # fmt: skip
X = normal(3, 64, 6)


def apply(p, x):
    h = jax.nn.relu(x @ p["first"]["kernel"] + p["first"]["bias"])
    return jax.nn.relu(h @ p["second"] + p["bias"]) @ p["out"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"second": PARAMS["second"].T}, r"second \(16, 20\) for \(20, 16\)"),
        ({"first": None}, "missing: first/bias, first/kernel"),
        ({"out": PARAMS["out"].T}, r"out \(3, 16\) for \(16, 3\)"),
    ],
)
def test_leaves_that_are_not_as_traced(changed, told):
    net = linjax.trace(apply, PARAMS, X[:2])
    params = {**PARAMS, **changed}
    for call in (lambda: net.apply(params, X), lambda: linjax.collect(net, params, [X])):
        with pytest.raises(linjax.StructureError, match=told):
            call()


def test_the_default_rule_is_told_where_nothing_goes():
    params = {"in": jnp.eye(4), "out": normal(0, 4, 3)}
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"], params, X[:1, :4])
    stats = linjax.collect(net, params, [X[:, :4]], metric="identity")
    with pytest.warns(linjax.FoldWarning, match=r"tolerance\(0.01\) can't make"):
        linjax.fold(params, stats)


def test_rows_whose_outputs_are_not_finite_are_told_by_batch():
    net = linjax.trace(apply, PARAMS, X[:2])
    with pytest.raises(linjax.EvidenceError, match="batch 1: the original's outputs aren't finite"):
        linjax.compare(net, PARAMS, PARAMS, [X, X.at[0].set(jnp.nan)])
