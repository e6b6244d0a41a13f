"""Too few rows, constants, nothing at all: a sensible fold, a warning or a refusal."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import placed

RNG = np.random.default_rng(0)
relu = jax.nn.relu


def a(*shape):
    return placed(RNG.normal(size=shape) / np.sqrt(shape[0]))


def mlp(p, x):
    return relu(relu(x @ p["w"] + p["b"]) @ p["v"] + p["c"]) @ p["o"]


P = {"w": a(8, 32), "b": a(32), "v": a(32, 24), "c": a(24), "o": a(24, 3)}
X = a(200, 8) * 9
CASES = {
    "constant": (P, jnp.ones((100, 8))),
    "zeros": (P, jnp.zeros((100, 8))),
    "nothing is on": ({**P, "b": P["b"] - 1e4}, X),
    "a zero kernel": ({**P, "v": 0 * P["v"]}, X),
    "zero outputs": ({**P, "o": 0 * P["o"]}, X),
    "one unit many times": ({**P, "w": jnp.repeat(P["w"][:, :1], 32, 1), "b": jnp.ones(32)}, X),
    "large": ({**P, "w": P["w"] * 1e6}, X),
    "small": ({**P, "w": P["w"] * 1e-6, "b": P["b"] * 1e-6}, X),
}


@pytest.mark.parametrize("case", CASES)
def test_a_sensible_fold(case):
    params, x = CASES[case]
    net = linjax.trace(mlp, params, x[:1])
    stats = linjax.collect(net, params, [x], metric="identity")
    small = linjax.fold(params, stats, linjax.tolerance(0.01))
    want, got = np.asarray(mlp(params, x)), np.asarray(jax.jit(net.apply)(small, x))
    assert np.isfinite(got).all()
    assert np.linalg.norm(got - want) <= 0.02 * np.linalg.norm(want) + 1e-5
    assert linjax.count(small) <= linjax.count(params)


@pytest.mark.parametrize("rows", [1, 2, 3, 10])
def test_few_rows_are_told_and_the_advice_works(rows):
    net = linjax.trace(mlp, P, X[:1])
    with pytest.warns(linjax.FoldWarning, match=f"{rows} for 32 units.*measure on others"):
        stats = linjax.collect(net, P, [X[:rows]], metric="identity")
    small = linjax.fold(P, stats, linjax.size(0.5))
    assert np.isfinite(linjax.compare(net, P, small, [X[100:]], metric="identity").error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linjax.collect(net, P, [X], metric="identity")


def test_inputs_without_entries_are_refused():
    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def apply(p, x):
        return relu(conv(x, p["w"])).sum((1, 2)) @ p["o"]

    params = {"w": a(3, 3, 3, 8), "o": a(8, 2)}
    net = linjax.trace(apply, params, jnp.zeros((4, 6, 6, 3)))
    with pytest.raises(linjax.EvidenceError, match="has no entries"):
        linjax.collect(net, params, [jnp.zeros((4, 0, 0, 3))], metric="identity")


@pytest.mark.parametrize("share", [0.9, 0.8, 0.6])
@pytest.mark.parametrize("seed", [4, 5, 51])
def test_what_is_carried_past_a_vanished_layer_isnt_cut(share, seed):
    def narrow(p, x):
        return relu(relu(x @ p["w"]) @ p["v"] + p["c"]) @ p["o"]

    rng = np.random.default_rng(seed)
    shapes = {"w": (8, 2), "v": (2, 2), "c": 2, "o": (2, 1)}
    params = {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    net = linjax.trace(narrow, params, X[:1])
    stats = linjax.collect(net, params, [X], metric="identity")
    small = linjax.fold(params, stats, linjax.size(0.7))
    again = linjax.collect(net, small, [X], metric="identity")
    try:
        smaller = linjax.fold(small, again, linjax.size(share))
    except linjax.LinjaxError as error:
        assert "smallest network" in str(error)
        return
    net.check(smaller)
    assert np.isfinite(np.asarray(jax.jit(net.apply)(smaller, X))).all()
