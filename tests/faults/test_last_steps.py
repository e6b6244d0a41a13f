"""Recurrences of whose steps some are read: the last one, or all but the first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

relu = jax.nn.relu
RNG = np.random.default_rng(0)
SHAPES = {"in": (3, 8), "rec": (8, 8), "up": (8, 16), "out": (16, 2)}
PARAMS = {n: jnp.asarray(RNG.normal(size=s) / s[0] ** 0.5, jnp.float32) for n, s in SHAPES.items()}
X = placed(RNG.normal(size=(128, 5, 3)))
CUTS = {
    "the last": lambda h: h[-1],
    "all but the first": lambda h: h[1:].mean(0),
    "the ends": lambda h: h[0] + h[-1],
}


@pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
@pytest.mark.parametrize("name", CUTS)
def test_steps_of_a_recurrence_may_be_cut(name):
    """Where its steps were cut ``collect`` failed with KeyError: -1, as behind a Linen RNN."""

    def apply(p, x):
        def step(state, now):
            state = jnp.tanh(relu(now @ p["in"]) + state @ p["rec"])
            return state, state

        start = jnp.zeros((x.shape[0], 8), x.dtype)
        states = jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))[1]
        return relu(CUTS[name](states) @ p["up"]) @ p["out"]

    net = linjax.trace(apply, PARAMS, X[:1])
    stats = linjax.collect(net, PARAMS, [X], metric="identity")
    small, report = linjax.fold_and_report(PARAMS, stats, linjax.size(0.8))
    y, z = apply(PARAMS, X), jax.jit(net.apply)(small, X)
    assert linjax.count(small) <= 0.8 * linjax.count(PARAMS)
    error = jnp.linalg.norm(z - y) / jnp.linalg.norm(y - y.mean(0))
    assert error <= 3 * report.predicted + 0.01
