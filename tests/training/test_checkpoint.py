"""A training loop that folds is stopped and goes on as if it hadn't been."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linjax
from linjax.training.checkpoint import restore_checkpoint, save_checkpoint
from tests.store import networks


class Held(NamedTuple):
    params: Any


@pytest.fixture(scope="module")
def loop():
    """A network, its optimiser, a training step, folded parameters and their state."""
    net, params, x = networks.network()
    adam = optax.adam(1e-2)
    y = jnp.asarray(np.random.default_rng(1).normal(size=(64, 3)), jnp.float32)

    @jax.jit
    def step(params, state):
        gradients = jax.grad(lambda p: jnp.mean((net.apply(p, x) - y) ** 2))(params)
        updates, state = adam.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params, state = step(params, adam.init(params))
    stats = linjax.collect(net, params, [x])
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.4))
    state = linjax.carry_over(adam, state, params, small, report)
    return net, adam, step, small, state


def test_the_loop_goes_on_as_if_never_stopped(loop, tmp_path):
    net, adam, step, small, state = loop
    save_checkpoint(tmp_path / "run", 7, net, small, state)
    found = restore_checkpoint(tmp_path / "run", net, adam)
    assert found.step == 7
    assert jax.tree.structure(found.state) == jax.tree.structure(state)
    want, got = (small, state), (found.params, found.state)
    for _ in range(2):
        want, got = step(*want), step(*got)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_array_equal(a, b)


def test_steps_before_and_after_a_fold_stand_side_by_side(loop, tmp_path):
    net, adam, _, small, state = loop
    _, params, _ = networks.network()
    save_checkpoint(tmp_path, 1, net, params, adam.init(params), keep=2)
    save_checkpoint(tmp_path, 2, net, small, keep=2)
    assert linjax.count(restore_checkpoint(tmp_path, net, adam, step=1).params) == 840
    latest = restore_checkpoint(tmp_path, net)
    assert (latest.step, latest.state) == (2, None)
    assert linjax.count(latest.params) == linjax.count(small)
    with pytest.raises(linjax.StoreError, match="no optimiser's state"):
        restore_checkpoint(tmp_path, net, adam)
    save_checkpoint(tmp_path, 3, net, small, state, keep=2)
    with pytest.raises(linjax.StoreError, match="no step 1; it has 2, 3"):
        restore_checkpoint(tmp_path, net, step=1)
    with pytest.raises(linjax.StructureError, match="optimizer"):
        restore_checkpoint(tmp_path, net, optax.sgd(0.1, momentum=0.9))


@pytest.mark.parametrize("contained", [dict, lambda p: [p], Held])
def test_a_state_is_told_by_what_it_keeps_not_by_its_shapes(loop, tmp_path, contained):
    net, _, _, small, _ = loop
    makers = (optax.sgd(0.1, momentum=0.9), optax.rmsprop(0.1), optax.adagrad(0.1))
    for step, optimizer in enumerate(makers):
        save_checkpoint(tmp_path, step, net, small, optimizer.init(small), keep=9)
        for other, wanted in enumerate(makers):
            if other == step:
                state = restore_checkpoint(tmp_path, net, wanted, step=step).state
                assert jax.tree.structure(state) == jax.tree.structure(optimizer.init(small))
            else:
                with pytest.raises(linjax.StructureError, match="isn't one of this optimizer"):
                    restore_checkpoint(tmp_path, net, wanted, step=step)
    every = optax.MultiSteps(optax.adam(0.1), 2)
    save_checkpoint(tmp_path, 8, net, small, every.init(contained(small)), keep=9)
    assert restore_checkpoint(tmp_path, net, every, step=8).state.mini_step == 0


def test_another_network_is_refused_by_path(loop, tmp_path):
    net, _, _, small, _ = loop
    save_checkpoint(tmp_path, 1, net, small)
    wider, params, _ = networks.network(width=25)
    with pytest.raises(linjax.StructureError, match=r"first/b: float32 \(25,\) here.*\(24,\) in"):
        restore_checkpoint(tmp_path, wider)
    with pytest.raises(linjax.StructureError, match="fourth"):
        save_checkpoint(tmp_path, 2, net, small | {"fourth": params["last"]})
    with pytest.raises(linjax.StoreError, match="no such folder"):
        restore_checkpoint(tmp_path / "nowhere", net)
    with pytest.raises(linjax.StoreError, match="no step at all"):
        (tmp_path / "empty").mkdir()
        restore_checkpoint(tmp_path / "empty", net)


def test_a_step_is_not_overwritten(loop, tmp_path):
    net, _, _, small, _ = loop
    save_checkpoint(tmp_path, 1, net, small)
    with pytest.raises(linjax.StoreError, match="step 1"):
        save_checkpoint(tmp_path, 1, net, small)
