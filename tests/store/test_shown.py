"""A stored network's function is known again by what it computes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.arrays import normal

PARAMS = {"in": normal(0, 6, 20), "out": normal(1, 20, 3)}
X = 3 * normal(2, 50, 6)


def apply(p, x):
    return jax.nn.relu(x @ p["in"]) @ p["out"]


def folded(function, params):
    net = linjax.trace(function, params, X[:2])
    stats = linjax.collect(net, params, [X], metric="identity")
    return net, linjax.fold(params, stats, linjax.size(0.5))


OTHERS = {
    "twice": lambda p, x: 2 * apply(p, x),
    "bounded": lambda p, x: jnp.tanh(apply(p, x)),
    "scaled input": lambda p, x: apply(p, x * 0.5),
    "centred input": lambda p, x: apply(p, x - x.mean()),
    "fewer outputs": lambda p, x: apply(p, x)[:, :2],
    "with a shortcut": lambda p, x: apply(p, x) + x[:, :3],
    "another activation": lambda p, x: jax.nn.gelu(x @ p["in"]) @ p["out"],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_another_function_is_refused(tmp_path, other):
    linjax.save(tmp_path / "net", *folded(apply, PARAMS))
    with pytest.raises(linjax.StructureError, match="apply_fn computes something else"):
        linjax.load(tmp_path / "net", other)


def test_the_same_function_written_otherwise_is_not(tmp_path):
    net, small = folded(apply, PARAMS)
    linjax.save(tmp_path / "net", net, small)
    again, loaded = linjax.load(
        tmp_path / "net", jax.jit(lambda p, x: jnp.maximum(jnp.dot(x, p["in"]), 0) @ p["out"])
    )
    np.testing.assert_allclose(again.apply(loaded, X), net.apply(small, X), rtol=1e-5, atol=1e-6)


def test_a_function_that_fails_on_made_up_inputs_is_still_saved(tmp_path):
    def picky(p, x, n):
        return apply(p, x) / n  # made-up numbers may be zero

    params = PARAMS
    net = linjax.trace(picky, params, X[:2], jnp.zeros((2, 1), jnp.int32) + 3)
    linjax.save(tmp_path / "net", net, params)
    linjax.load(tmp_path / "net", picky)


class Layer(NamedTuple):
    kernel: Any
    bias: Any


@pytest.mark.parametrize("whole", [True, False])
def test_containers_of_a_class(tmp_path, whole):
    def run(p, x):
        return jax.nn.relu(x @ p["one"].kernel + p["one"].bias) @ p["two"].kernel

    params = {
        "one": Layer(normal(0, 6, 12), jnp.ones(12)), "two": Layer(normal(1, 12, 3), jnp.ones(3)),
    }  # fmt: skip
    net, small = folded(run, params)
    small = params if whole else small
    linjax.save(tmp_path / "net", net, small)
    with pytest.raises(linjax.StructureError, match="like=model"):
        linjax.load(tmp_path / "net", run)
    again, loaded = linjax.load(tmp_path / "net", run, like=jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(again.apply(loaded, X), net.apply(small, X), rtol=1e-6)
    if whole:
        assert jax.tree.structure(loaded) == jax.tree.structure(params)
    with pytest.raises(linjax.StructureError, match="one/bias: only the file has it"):
        linjax.load(tmp_path / "net", run, like={"one": {"kernel": 0}, "two": params["two"]})
