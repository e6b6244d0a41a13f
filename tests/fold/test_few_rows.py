"""Sites refitted in order where rows are few for their coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.fold.candidates import Work
from linjax.fold.rows import divided, even, load, taught


def apply(p, x):
    h = jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"])
    return jnp.clip(h @ p["c"] + p["s"], 0, 2).mean(1) @ p["d"]


@pytest.mark.parametrize(("seed", "share"), [(0, 0.7), (2, 0.5)])
def test_what_is_fitted_to_a_few_pooled_rows_is_no_farther_from_others(seed, share):
    rng, shapes = np.random.default_rng(seed), {"a": (12, 40), "b": (40, 24)}
    shapes |= {"c": (24, 320), "d": (320, 6)}
    params = {n: rng.normal(size=s) / np.sqrt(s[0]) for n, s in shapes.items()}
    params["s"] = rng.normal(size=320)
    params = {n: jnp.asarray(leaf, jnp.float32) for n, leaf in params.items()}
    x = rng.normal(size=(548, 9, 12)).astype(np.float32)
    few, others = x[:48], x[48:]
    net = linjax.trace(apply, params, few[:2])
    prices = linjax.frontier(params, linjax.collect(net, params, [few], metric="identity"))
    train, held = divided(load(net, [few]))
    work = Work(net, params, prices, train, held, "identity")
    made = work.refitted(linjax.size(share), taught(net, params, even(net, held)))
    once, in_order = (linjax.compare(net, params, p, [others], metric="identity") for p in made)
    assert in_order.error < once.error
