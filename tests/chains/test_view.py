"""What the chains say of a network is what its program computes, value by value.

Every affine map and activation that a view describes is computed anew from the description and
the parameters, and compared with the values of the program. Thousands of random networks:
``python -m tests.chains.test_view 2000``.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import linjax
from linjax.chains.slopes import slope_and_offset
from linjax.program import pytree

sys.path.insert(0, str(Path(__file__).parents[1] / "properties"))
from architectures import KINDS, architectures, make

GATES = {"silu gate": jax.nn.silu, "product": lambda z: z, "relu gate": jax.nn.relu}
CURVED = {"relu": jax.nn.relu, "gelu (tanh)": jax.nn.gelu, "tanh": jnp.tanh}


def rows(value, axis):
    return np.moveaxis(np.asarray(value, np.float64), axis, -1).reshape(-1, value.shape[axis])


class Told:
    """A network as its chains tell it, beside the values of its program."""

    def __init__(self, net, params, x):
        self.flat = pytree.flatten(params)
        self.view = net.examined(self.flat)
        program = self.view.program
        network = net.network_for(self.flat, net.example)
        ids = {ref.id for op in program.ops for ref in op.outputs}
        ids |= {ref.id for ref in program.layout.inputs}
        self.values = net.run(params, x, taps=frozenset(ids)).values
        assert network is program.network

    def at(self, ref, axis):
        return rows(self.values[ref.id], axis)

    def product(self, name):
        """``v W`` of a map by its description."""
        affine, own = self.view.graph.affine(name), self.view.maps[name]
        kernel = np.asarray(self.flat[affine.kernel], np.float64).transpose(affine.layout)
        assert kernel.shape == (affine.inputs, affine.outputs * affine.part.of)
        return self.at(own.data, own.contract) @ affine.part.take(kernel, 1)

    def pre(self, *names):
        """``v W + b``, summed over the maps, and what stands behind that."""
        total = sum(map(self.product, names))
        for affine in map(self.view.graph.affine, names):
            if affine.bias is not None:
                total = total + affine.part.take(np.asarray(self.flat[affine.bias]), 0)
        scaled = slope_and_offset(self.view.graph.affine(names[0]).scaling, self.flat)
        return total if scaled is None else total * scaled[0] + scaled[1]


def check(net, params, x, close=1e-9):
    """Compares; returns how many sites there were."""
    told = Told(net, params, x)
    assert told.view.graph == net.graph
    for site in net.graph.sites:
        bent, pres = told.view.bent[site.name], []
        for group, names in zip(
            bent.groups, ((site.producer, *site.terms), *((m,) for m in site.mates)), strict=True
        ):
            pres.append(told.pre(*names))
            for ref in group.map.results:
                found = told.at(ref, group.map.axis)
                np.testing.assert_allclose(found, pres[-1], rtol=close, atol=close)
        want = activated(site.activation, pres, told.flat)
        for name in site.consumers:
            own = told.view.maps[name]
            read = told.at(own.data, own.contract)
            np.testing.assert_allclose(read, want, rtol=close, atol=close)
            op = told.view.program.ops[own.at]
            result = told.at(op.outputs[0], -1 if op.inputs[0] == own.data else 0)
            if result.shape[1] > (width := net.graph.affine(name).outputs):
                result = net.graph.affine(name).part.take(result, 1)
            assert result.shape[1] == width
            np.testing.assert_allclose(result, told.product(name), rtol=close, atol=close)
    return len(net.graph.sites)


def activated(activation, pres, flat):
    """σ of pre-activations, by its slopes where it has two, else by its name."""
    slopes = activation.slopes
    if activation.learned is not None:
        slopes = [s.value if s.leaf is None else np.asarray(flat[s.leaf])
                  for s in activation.learned]  # fmt: skip
    if slopes is not None:
        return np.where(pres[0] > 0, slopes[1], slopes[0]) * pres[0]
    if len(pres) == 1:
        return np.asarray(CURVED[activation.name](pres[0]))
    if activation.name in GATES:
        return np.asarray(GATES[activation.name](pres[0])) * np.prod(pres[1:], axis=0)
    return sum(np.maximum(z, 0) for z in pres)  # "max·add": rectified and added


def traced(network):
    net = linjax.trace(network.apply_fn, network.params, network.x[:3])
    return check(net, network.params, network.x[:3])


@given(architectures())
def test_random_architectures(network):
    with jax.enable_x64(True), jax.disable_jit():
        traced(network)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind):
    with jax.enable_x64(True), jax.disable_jit():
        assert traced(make(5, [kind])) or kind in ("concat", "shared", "peek", "skip")


def normal(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def norm(p, z):
    return (z - p["mean"]) / jnp.sqrt(p["var"] + 1e-5) * p["scale"] + p["shift"]


WRITTEN = {
    "batch norm": (lambda p, x: jnp.tanh(norm(p, x @ p["a"] + p["b"])) @ p["c"], "tanh"),
    "batch norm of positions": (
        lambda p, x: jax.nn.relu(norm(p, x[:, None] @ p["a"]).reshape(-1, 1, 1, 6)) @ p["c"],
        "relu",
    ),
    "transposed": (lambda p, x: jax.nn.relu((p["a"].T @ x.T).T + p["b"]) @ p["c"], "relu"),
    "one sample": (lambda p, x: jax.vmap(lambda v: jax.nn.relu(p["a"].T @ v) @ p["c"])(x), "relu"),
    "subtracted": (lambda p, x: jax.nn.relu(x @ p["a"] - p["b"]) @ p["c"], "relu"),
    "learned slope": (
        lambda p, x: (lambda z: jnp.where(z > 0, z, p["shift"] * z) @ p["c"])(x @ p["a"]), "prelu",
    ),
    "scaled behind": (
        lambda p, x: (jax.nn.relu(x @ p["a"] + p["b"]) * p["scale"]) @ p["c"], "two learned slopes",
    ),
    "parts of a bias": (
        lambda p, x: (lambda w, b: (jax.nn.silu(x @ w[0] + b[0]) * (x @ w[1] + b[1])))(
            jnp.split(p["a"], 2, 1), jnp.split(p["b"], 2)) @ p["d"], "silu gate",
    ),
    "bias behind the cut": (
        lambda p, x: (lambda z, b: (jax.nn.silu(z[0] + b[0]) * (z[1] + b[1])))(
            jnp.split(x @ p["a"], 2, 1), jnp.split(p["b"], 2)) @ p["d"], "silu gate",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_however_it_is_written(name):
    apply, activation = WRITTEN[name]
    with jax.enable_x64(True):
        params = {"a": normal(4, 6), "b": normal(6), "c": normal(6, 2), "d": normal(3, 2)}
        params |= {"mean": normal(6), "var": normal(6) ** 2, "scale": normal(6), "shift": normal(6)}
        x = normal(5, 4)
        net = linjax.trace(apply, params, x)
        assert [site.activation.name for site in net.graph.sites] == [activation]
        assert check(net, params, x) == 1


if __name__ == "__main__":
    with jax.enable_x64(True), jax.disable_jit():
        found = 0
        for seed in range(int(sys.argv[1])):
            rng = np.random.default_rng((7, seed))
            kinds = [str(k) for k in rng.choice(KINDS, rng.integers(1, 5))]
            try:
                found += traced(make(seed, kinds))
            except Exception as error:
                raise AssertionError(f"network {seed}: {kinds}") from error
        print(found, "sites")
