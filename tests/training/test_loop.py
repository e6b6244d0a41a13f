"""A fold in the middle of a jitted training loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linjax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 4)).astype(np.float32)
Y = np.stack([np.abs(X[:, 0]) + X[:, 1], X[:, 2] * 2 - X[:, 3]], axis=1)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(5e-3))


def apply(params, x):
    h = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"])
    h = jax.nn.relu(h @ params["b"]["kernel"] + params["b"]["bias"])
    return h @ params["c"]["kernel"] + params["c"]["bias"]


def start():
    widths = (4, 32, 32, 2)
    return {
        name: {
            "kernel": jnp.asarray(RNG.normal(size=(p, q)) / np.sqrt(p), jnp.float32),
            # half of the units start always on
            "bias": jnp.where(jnp.arange(q) % 2, 6.0, 0.0) * (name != "c"),
        }
        for name, p, q in zip("abc", widths, widths[1:], strict=False)
    }


def step_function(net):
    @jax.jit
    def step(params, state):
        def loss(params):
            return jnp.mean((net.apply(params, X) - Y) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = OPTIMIZER.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def test_training_goes_on_on_the_smaller_network():
    params = start()
    net = linjax.trace(apply, params, X[:1])
    state, step = OPTIMIZER.init(params), step_function(net)
    for _ in range(30):
        params, state, before = step(params, state)
    stats = linjax.collect(net, params, [X], second_moments=False)
    rule = linjax.threshold(1.0)
    folded, report = linjax.fold_and_report(params, stats, rule)
    assert linjax.count(folded) < linjax.count(params)
    np.testing.assert_allclose(net.apply(folded, X), net.apply(params, X), rtol=1e-4, atol=1e-4)
    carried = linjax.carry_over(OPTIMIZER, state, params, folded, report)
    now = jax.tree.structure(OPTIMIZER.init(folded))
    assert jax.tree.structure(carried) == now
    losses = []
    for _ in range(60):
        folded, carried, loss = step(folded, carried)
        losses.append(float(loss))
    assert losses[0] < 1.05 * float(before) + 1e-3
    assert losses[-1] < losses[0]


def test_kept_units_keep_their_moments_and_new_leaves_start_fresh():
    params = start()
    net = linjax.trace(apply, params, X[:1])
    state, step = OPTIMIZER.init(params), step_function(net)
    params, state, _ = step(params, state)
    stats = linjax.collect(net, params, [X], second_moments=False)
    folded, report = linjax.fold_and_report(params, stats, linjax.threshold(1.0, layers=1))
    carried = linjax.carry_over(OPTIMIZER, state, params, folded, report)
    old, new = state[1][0], carried[1][0]
    assert int(new.count) == int(old.count) == 1
    first, second = report.sites["a"].kept, report.sites["b"].kept
    np.testing.assert_array_equal(new.mu["a"]["kernel"], old.mu["a"]["kernel"][:, first])
    np.testing.assert_array_equal(new.mu["b"]["bias"], old.mu["b"]["bias"][second])
    np.testing.assert_array_equal(
        new.nu["b"]["kernel"], old.nu["b"]["kernel"][np.ix_(first, second)]
    )
    np.testing.assert_array_equal(new.mu["c"]["kernel"], old.mu["c"]["kernel"][second])
    assert not np.any(new.mu["c"]["kernel_residual"])


def test_a_state_of_another_optimizer_is_refused():
    params = start()
    net = linjax.trace(apply, params, X[:1])
    stats = linjax.collect(net, params, [X], second_moments=False)
    folded, report = linjax.fold_and_report(params, stats, linjax.threshold(1.0, layers=1))
    with pytest.raises(linjax.StructureError, match="isn't one that this optimizer made"):
        linjax.carry_over(OPTIMIZER, optax.sgd(0.1).init(params), params, folded, report)


def test_derivatives_of_the_folded_network_equal_those_of_the_original():
    params = start()
    net = linjax.trace(apply, params, X[:1])
    stats = linjax.collect(net, params, [X], second_moments=False)
    folded = linjax.fold(params, stats, linjax.threshold(1.0))

    def total(p, x):
        return jnp.sum(jnp.sin(net.apply(p, x)))

    x = jnp.asarray(X[:16])
    np.testing.assert_allclose(
        jax.grad(total, 1)(folded, x), jax.grad(total, 1)(params, x), rtol=2e-3, atol=2e-3
    )
    each = jax.vmap(lambda row: net.apply(folded, row[None])[0])(x)
    np.testing.assert_allclose(each, net.apply(params, x), rtol=1e-3, atol=1e-3)
