"""Compressing beside loops and derivatives of one's own, and kernels that make what they read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

RNG = np.random.default_rng(0)
relu = jax.nn.relu


def normal(*shape, scale=0.5):
    return placed(RNG.normal(size=shape) * scale)


X = normal(400, 8)
P = {"q": normal(8, 8), "w": normal(8, 48), "b": normal(48), "v": normal(48, 4)}
N = {"n": normal(8, 48), "v": normal(48, 4), "b": normal(48), "m": normal(48, 8)}
S = {"w": normal(8, 32), "s": normal(4, 32, 32, scale=0.2), "v": normal(32, 4)}
R = {"w": normal(8, 32), "r": normal(32, 32, scale=0.2), "v": normal(32, 4)}
E = {"e": normal(20, 24), "w": normal(24, 48)}


@jax.custom_vjp
def bent(x):
    return jnp.tanh(x)


bent.defvjp(lambda x: (bent(x), x), lambda x, g: (g,))


def dense(p, x):
    return relu(x @ p["w"] + p["b"]) @ p["v"]


def loop(p, x):
    step = lambda c: (c[0] + 1, c[1] @ p["q"])  # noqa: E731
    return dense(p, jax.lax.while_loop(lambda c: c[0] < 2, step, (0, x))[1])


def derived(p, x):
    return dense(p, bent(x @ p["q"]))


def branch(p, x):
    return dense(p, jax.lax.cond(x[0, 0] > 0, lambda h: h @ p["q"], lambda h: h, x))


def there_and_back(p, x):
    return relu(relu(x @ p["n"]) @ p["n"].T @ p["n"]) @ p["v"]


def by_way_of(p, x):
    return relu(relu(x @ p["n"] + p["b"]) @ p["m"] @ p["n"] + p["b"]) @ p["v"]


def tied(p, x):
    ids = (jnp.abs(x[:, 0]) * 10).astype(jnp.int32)
    return relu(p["e"][ids] @ p["w"]) @ p["w"].T @ p["e"].T


def layers(p, x):
    return jax.lax.scan(lambda h, w: (relu(h @ w), None), x @ p["w"], p["s"])[0] @ p["v"]


def recurrent(p, x):
    h = jax.lax.scan(lambda h, _: (relu(h @ p["r"]), None), x @ p["w"], None, length=3)[0]
    return relu(h @ p["r"]) @ p["v"]


CASES = {
    "loop": (loop, P), "derived": (derived, P), "branch": (branch, P), "layers": (layers, S),
    "recurrent": (recurrent, R), "there and back": (there_and_back, N), "by way": (by_way_of, N),
    "tied": (tied, E),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_folding_and_compressing_do_what_they_say(case):
    apply, params = CASES[case]
    net, want = linjax.trace(apply, params, X[:1]), np.asarray(jax.jit(apply)(params, X))
    stats = linjax.collect(net, params, [X], metric="identity")
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.7))

    def error(folded):
        got = np.asarray(jax.jit(net.apply)(folded, X))
        return np.linalg.norm(got - want) / np.linalg.norm(want - want.mean(axis=0))

    assert linjax.count(small) <= 0.7 * linjax.count(params)
    assert error(small) <= 2 * report.predicted + 1e-3
    refitted = linjax.compress(net, params, [X], linjax.size(0.7), metric="identity")
    assert linjax.count(refitted) <= 0.7 * linjax.count(params)
    assert error(refitted) <= 1.2 * error(small) + 1e-3
