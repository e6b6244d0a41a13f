"""A folded network runs the operations that one writes for its widths, and no others."""

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.dims.run import execute
from tests.arrays import placed

RNG = np.random.default_rng(0)


def normal(*shape):
    return placed(RNG.normal(size=shape))


def network(p, x):
    h = jax.nn.relu(x @ p["in"] + p["shift"])
    h = jax.nn.relu(h @ p["mid"] + p["bias"])
    return h @ p["out"]


def by_hand(p, x):
    h = jnp.concatenate([jax.nn.relu(x @ p["in"] + p["shift"]), x @ p["in_linear"]], axis=1)
    h = h @ p["mid_down"]
    h = jnp.concatenate([jax.nn.relu(h @ p["mid"] + p["bias"]), h @ p["mid_linear"]], axis=1)
    return h @ p["out"]


def primitives(function, *arguments):
    def names(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn.primitive.name
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from names(inner)

    return list(names(jax.make_jaxpr(function)(*arguments).jaxpr))


def test_linear_coordinates_are_put_beside_bent_ones_and_nothing_is_chosen_entry_by_entry():
    whole = {"in": normal(9, 12), "shift": normal(12), "mid": normal(12, 10), "bias": normal(10)}
    whole["out"] = normal(10, 4)
    x = normal(7, 9)
    net = linjax.trace(network, whole, x)
    small = {
        "in": normal(9, 5), "shift": normal(5), "in_linear": normal(9, 2),
        "mid_down": normal(7, 3), "mid": normal(3, 6), "bias": normal(6),
        "mid_linear": normal(3, 2), "out": normal(8, 4),
    }  # fmt: skip
    np.testing.assert_allclose(net.apply(small, x), by_hand(small, x), rtol=1e-5, atol=1e-5)

    def run(p, x):
        flat = net.network.flatten(p)
        return execute(net.network_for(flat, (x,)), flat, [x]).outputs

    found = primitives(run, small, x)
    assert not {"gather", "select_n"} & set(found)
    assert found.count("dot_general") == primitives(by_hand, small, x).count("dot_general")
