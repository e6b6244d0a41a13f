"""Any chain of layers survives being written to a pytree, read back, and run."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

import linjax
from linjax.chains.layers import Layer
from linjax.chains.reading import read_chain, write_chain
from linjax.program import pytree
from linjax.program.count import count


def evaluate(layers, x):
    """The definition of a chain, in NumPy."""
    v = x
    for index, layer in enumerate(layers):
        v = v if layer.down is None else v @ layer.down
        z = v @ layer.kernel + layer.bias
        if index == len(layers) - 1:
            return z
        parts = [np.maximum(z, 0)]
        parts += [] if layer.linear is None else [v @ layer.linear]
        parts += [v] if layer.residual else []
        v = np.concatenate(parts, axis=1)


@st.composite
def chains(draw):
    """Draws the widths of a network, and layers of every kind for it."""
    depth = draw(st.integers(1, 4))
    widths = [draw(st.sampled_from([2, 3, 5])) for _ in range(depth + 2)]
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    layers, reads = [], widths[0]
    for index in range(depth + 1):
        last = index == depth
        down = rng.normal(size=(reads, draw(st.integers(1, 3)))) if draw(st.booleans()) else None
        inner = reads if down is None else down.shape[1]
        units = widths[-1] if last else draw(st.integers(0, widths[index + 1]))
        linears = 0 if last else draw(st.integers(0, 2))
        layer = Layer(
            kernel=rng.normal(size=(inner, units)),
            bias=rng.normal(size=units),
            linear=rng.normal(size=(inner, linears)) if linears else None,
            residual=not last and draw(st.booleans()),
            down=down,
        )
        layers.append(layer)
        reads = layer.features
    return widths, tuple(layers), draw(st.booleans()), draw(st.sampled_from(["w", "tuple"]))


def build(widths, with_bias):
    rng = np.random.default_rng(0)
    return [
        {"w": rng.normal(size=(p, q))} | ({"b": rng.normal(size=q)} if with_bias else {})
        for p, q in itertools.pairwise(widths)
    ]


def apply(params, x):
    for index, part in enumerate(params):
        x = x @ part["w"]
        x = x + part["b"] if "b" in part else x
        x = jax.nn.relu(x) if index < len(params) - 1 else x
    return x


@given(chains())
def test_written_layers_run_and_read_back_as_the_same_function(drawn):
    widths, layers, with_bias, _ = drawn
    x = np.random.default_rng(1).normal(size=(7, widths[0]))
    want = evaluate(layers, x)
    with jax.enable_x64(True):
        params = build(widths, with_bias)
        net = linjax.trace(apply, jax.tree.map(jnp.asarray, params), jnp.asarray(x))
        (chain,) = net.graph.chains
        flat = write_chain(net.graph, pytree.flatten(params), chain, layers)
        folded = pytree.unflatten(flat)
        scale = np.abs(want).max() + 1.0
        np.testing.assert_allclose(net.apply(folded, x), want, atol=1e-9 * scale)
        again = read_chain(net.graph, flat, chain)
        np.testing.assert_allclose(evaluate(again, x), want, atol=1e-9 * scale)
        twice = write_chain(net.graph, flat, chain, again)
        assert {k: v.shape for k, v in twice.items()} == {k: v.shape for k, v in flat.items()}
        assert count(folded) <= sum(
            array.size
            for layer in layers
            for array in (layer.kernel, layer.bias, layer.linear, layer.down)
            if array is not None
        )
