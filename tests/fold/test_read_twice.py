"""Sites that are read at several points of one problem, with kernels in two factors beside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax

WIDTH = 24


def apply(p, x):
    z = x @ p["a"] + p["ab"]
    g = jnp.tanh(jax.nn.relu(z) @ p["r"] @ p["s"] + p["sb"])
    later = z + g @ p["m"] + p["mb"]  # made after it has first been read
    return jax.nn.relu(later) @ p["o"] + 0.1 * jax.nn.relu(z) @ p["o"]


def network():
    rng = np.random.default_rng(3)

    def draw(*s):
        return jnp.asarray(rng.normal(size=s), jnp.float32)

    def kernel(*s):
        return draw(*s) / np.sqrt(s[0])

    params = {"a": kernel(8, WIDTH), "ab": 1 + 0.3 * draw(WIDTH), "r": kernel(WIDTH, WIDTH)}
    params |= {"s": kernel(WIDTH, 32), "sb": 2 + draw(32), "m": kernel(32, WIDTH)}
    params |= {"mb": draw(WIDTH), "o": kernel(WIDTH, 4)}
    return params, draw(800, 8)


@pytest.mark.parametrize("share", [0.6, 0.5, 0.4, 0.3])
def test_kernels_that_make_them_are_factored_in_order(share):
    params, x = network()
    net = linjax.trace(apply, params, x[:1])
    known = linjax.frontier(params, linjax.collect(net, params, [x], metric="identity"))
    rule = linjax.size(share)
    small = linjax.compress(net, params, [x], rule, metric="identity", evidence=known, joint=False)
    assert linjax.count(small) <= share * linjax.count(params)
    errors = [
        linjax.compare(net, params, p, [x], metric="identity").error
        for p in (small, linjax.fold(params, known, rule))
    ]
    assert errors[0] <= 1.05 * errors[1]
