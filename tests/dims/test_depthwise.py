"""Convolutions of single channels, written out, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import linjax
from linjax.dims.run import execute
from linjax.program import pytree

CASES = {
    "same": ((2, 7, 6, 4), (3, 3, 1, 4), {"padding": "SAME"}),
    "strides": ((2, 9, 8, 4), (5, 3, 1, 4), {"window_strides": (2, 3), "padding": "SAME"}),
    "apart": ((2, 9, 8, 4), (3, 2, 1, 4), {"rhs_dilation": (2, 3), "padding": [(3, 1), (-1, 2)]}),
    "holes": (
        (2, 5, 4, 3),
        (3, 3, 1, 3),
        {"lhs_dilation": (2, 1), "window_strides": (1, 2), "padding": [(2, 1), (0, 1)]},
    ),
    "line": ((2, 9, 4), (4, 1, 4), {"window_strides": (2,), "padding": [(2, 1)]}),
    "too small": ((2, 2, 2, 3), (3, 3, 1, 3), {"padding": "VALID"}),
}


def function(case):
    shape, window, params = CASES[case]
    letters = "HW"[: len(shape) - 2]
    params = {"window_strides": (1,) * len(letters), "padding": "SAME"} | params
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")

    def apply(p, x):
        y = lax.conv_general_dilated(
            x, p["deep"], dimension_numbers=numbers, feature_group_count=shape[-1], **params
        )
        return jax.nn.relu(y).sum(tuple(range(1, y.ndim - 1))) @ p["out"]

    rng = np.random.default_rng(0)
    p = {
        "deep": jnp.asarray(rng.normal(size=window), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(shape[-1], 3)), jnp.float32),
    }
    return apply, p, jnp.asarray(rng.normal(size=shape), jnp.float32)


def pushed(f):
    return jax.jit(lambda *at: jax.jvp(f, at, at))


def near(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_values_and_all_derivatives_are_those_of_the_convolution(case):
    apply, params, x = function(case)
    net = linjax.trace(apply, params, x)

    def own(p, x):
        return net.run(p, x).outputs  # net.apply calls the traced function itself

    assert "depthwise_conv" in str(jax.make_jaxpr(own)(params, x))
    near(jax.jit(own)(params, x), apply(params, x))
    square = [lambda p, x, f=f: (f(p, x) ** 2).sum() for f in (own, apply)]
    near(*(jax.jit(jax.grad(f, argnums=(0, 1)))(params, x) for f in square))
    near(*(pushed(f)(params, x) for f in (own, apply)))
    # Curvatures push forward, then pull back.
    near(*(pushed(jax.grad(f))(params, x) for f in square))


@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)])
def test_several_at_once(axes):
    apply, params, x = function("strides")
    net = linjax.trace(apply, params, x)
    several = [jnp.stack([x, 2 * x, x + 1]) if axes[1] == 0 else x]
    p = jax.tree.map(lambda v: jnp.stack([v, v + 1, -v]), params) if axes[0] == 0 else params

    def own(p, x):
        return net.run(p, x).outputs

    near(*(jax.jit(jax.vmap(f, axes))(p, *several) for f in (own, apply)))
    back = [jax.vmap(jax.grad(lambda p, x, f=f: (f(p, x) ** 2).sum(), (0, 1)), axes)
            for f in (own, apply)]  # fmt: skip
    near(*(f(p, *several) for f in back))


def test_single_precision_sums_of_half_precision():
    apply, params, x = function("same")
    params, x = jax.tree.map(lambda v: v.astype(jnp.bfloat16), (params, x))
    net = linjax.trace(apply, params, x)
    network = net.network
    (op,) = (op for op in network.layout.program.ops if op.name == "conv_general_dilated")
    value = op.outputs[0].id
    found = execute(network, pytree.flatten(params), [x], frozenset({value})).values[value]
    wide = lax.conv_general_dilated(
        x.astype(jnp.float32), params["deep"].astype(jnp.float32), (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4,
    )  # fmt: skip
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wide.astype(jnp.bfloat16))


def test_who_reads_the_program_sees_the_convolution():
    apply, params, x = function("same")
    net = linjax.trace(apply, params, x)
    again = linjax.trace(lambda p, x: net.run(p, x).outputs, params, x)
    names = [[op.name for op in n.network.layout.program.ops] for n in (net, again)]
    assert names[0] == names[1] and "conv_general_dilated" in names[0]
