"""Rules, sizes and steps that make no sense are refused in words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.program import pytree


def network():
    rng = np.random.default_rng(0)
    params = {
        "in": jnp.asarray(rng.normal(size=(4, 12)), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(12, 3)), jnp.float32),
    }
    x = jnp.asarray(rng.normal(size=(60, 4)), jnp.float32)
    return linjax.trace(lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"], params, x), params, x


@pytest.mark.parametrize("value", ["half", None, True, 1j, [0.5], float("nan"), -1])
@pytest.mark.parametrize("rule", [linjax.size, linjax.tolerance, linjax.threshold])
def test_what_is_no_number_in_the_range(rule, value):
    with pytest.raises(linjax.LinjaxError, match="expected a"):
        rule(value)


def test_numbers_of_numpy_and_jax():
    for value in (np.float32(0.5), np.array(0.5), jnp.asarray(0.5)):
        assert linjax.size(value) == linjax.size(0.5)
        assert linjax.tolerance(value) == linjax.tolerance(0.5)


@pytest.mark.parametrize("rule", [linjax.threshold(0.5), linjax.published_size(0.5), 0.5, None])
def test_what_plans_cannot_go_by(rule):
    net, params, x = network()
    known = linjax.frontier(params, linjax.collect(net, params, [x]))
    for ask in (
        lambda: linjax.compress(net, params, [x], rule),
        lambda: linjax.corrected(net, params, known, [x], rule),
        lambda: known.plan(rule),
    ):
        with pytest.raises(linjax.LinjaxError, match="expected linjax"):
            ask()


def test_recovery_that_finds_nothing_says_so():
    net, params, x = network()
    worse = {"in": params["in"], "out": params["out"] * 0.999}
    with pytest.warns(linjax.FoldWarning, match="nothing was recovered"):
        same = linjax.recover(net, params, worse, [x], steps=20, learning_rate=1e9)
    leaves = zip(pytree.flatten(same).items(), pytree.flatten(worse).items(), strict=True)
    assert all(a == b and np.array_equal(u, v) for (a, u), (b, v) in leaves)
    for steps in (0, -1, 3):
        with pytest.raises(linjax.LinjaxError, match="steps"):
            linjax.recover(net, params, worse, [x], steps=steps)


@pytest.mark.parametrize("seed", ["a", -1, 0.5, None])
def test_seeds_that_are_none(seed):
    net, params, x = network()
    with pytest.raises(linjax.LinjaxError, match="seed"):
        linjax.recover(net, params, params, [x], seed=seed)


def test_a_frontier_folds_its_own_parameters_by_its_own_plans():
    net, params, x = network()
    known = linjax.frontier(params, linjax.collect(net, params, [x]))
    plan = known.plan(linjax.size(0.5))
    assert linjax.count(known.fold(params, plan)[0]) <= 0.5 * linjax.count(params)
    short = plan._replace(state=plan.state._replace(units=()))
    for wrong in (linjax.size(0.5), 0.5, None, plan.state, short):
        with pytest.raises(linjax.LinjaxError, match=r"frontier\.plan"):
            known.fold(params, wrong)
    with pytest.raises(linjax.StructureError, match="other values"):
        known.fold({**params, "out": params["out"] * 2}, plan)
