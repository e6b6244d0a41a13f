"""Linear coordinates come along at the cost of the network as it is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.dims.run import execute
from linjax.evidence.expand import expanded
from linjax.evidence.places import taps
from linjax.program import pytree


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape) / math.sqrt(shape[0])


def dense(params, x):
    for i in range(3):
        x = jax.nn.gelu(x @ params[f"w{i}"] + params[f"b{i}"])
    return x @ params["out"]


DENSE = (
    dense,
    {f"w{i}": normal(12, 12, seed=i) for i in range(3)}
    | {f"b{i}": normal(12, seed=9 + i) for i in range(3)}
    | {"out": normal(12, 3, seed=20)},
    normal(7, 12, seed=30),
)


def images(params, x):
    for name in ("a", "b"):
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(
                x, params[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )
    return jnp.mean(x, axis=(1, 2)) @ params["out"]


IMAGES = (
    images,
    {
        "a": normal(3, 3, 2, 6, seed=1),
        "b": normal(3, 3, 6, 5, seed=2),
        "out": normal(5, 3, seed=3),
    },
    normal(4, 6, 6, 2, seed=4),
)


def multiplications(function, *arguments):
    """Of all products of a program, by their shapes."""

    def count(jaxpr):
        total = 0
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                kernel = eqn.invars[1].aval.shape
                ((_, contract), _) = eqn.params["dimension_numbers"]
                total += math.prod(eqn.outvars[0].aval.shape) * math.prod(
                    kernel[n] for n in contract
                )
            if eqn.primitive.name == "conv_general_dilated":
                made = eqn.params["dimension_numbers"].rhs_spec[0]
                kernel = eqn.invars[1].aval.shape
                total += math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // kernel[made]
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    total += count(inner)
        return total

    return count(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize("own", [DENSE, IMAGES], ids=["dense", "images"])
def test_values_are_those_of_copied_kernels_and_products_those_of_the_network(own):
    apply, params, x = own
    net = linjax.trace(apply, params, x[:1])
    flat = pytree.flatten(params)
    network = net.network_for(flat, (x,))

    def lean(flat, x):
        wide = expanded(network, flat)
        return execute(network, wide.flat, [x], taps(network), unread=wide.dims)

    @jax.jit
    def copied(wide, x):  # arguments of a program are arrays of their own: nothing is told alike
        return execute(network, wide, [x], taps(network))

    found, wanted = jax.jit(lean)(flat, x), copied(expanded(network, flat).flat, x)
    assert expanded(network, flat).dims
    np.testing.assert_allclose(found.outputs, wanted.outputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.outputs, apply(params, x), rtol=1e-5, atol=1e-6)
    assert found.values.keys() == wanted.values.keys()
    for value, array in wanted.values.items():
        np.testing.assert_allclose(found.values[value], array, rtol=1e-5, atol=1e-6)
    plain = multiplications(apply, params, x)
    assert multiplications(lean, flat, x) == plain
    assert multiplications(copied, expanded(network, flat).flat, x) > plain
