"""The same function, written in several ways, has the same sites."""

import collections
import importlib.util
import math
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from tests.arrays import placed

sys.path.insert(0, str(Path(__file__).parent))
from removing import analysed, check

X = placed(np.random.default_rng(0).normal(size=(3, 5)))
SEQUENCE = placed(np.random.default_rng(1).normal(size=(2, 4, 6)))


def normal(*shape):
    rng = np.random.default_rng(math.prod(shape) + len(shape))
    return placed(rng.normal(size=shape))


def sites(apply, params, *inputs, linear=True):
    """A network's sites without their names; those in a scan count for each of its steps."""
    network = analysed(apply, params, inputs)
    check(apply, params, inputs, network=network)
    loops = {span.dim for own in network.layout.steps.values() for span in own}
    found = collections.Counter()
    for site in network.sites:
        sizes = {d: network.layout.traced[d] for d in site.beside}
        repeats = tuple(sorted(n for d, n in sizes.items() if d not in loops))
        own = (site.width, site.form.value, repeats, linear and site.linear)
        found[own] += math.prod(n for d, n in sizes.items() if d in loops)
    return found


def two_layers(**changed):
    shapes = {"a": (5, 8), "b": (8,), "c": (8, 7), "d": (7,), "e": (7, 3)} | changed
    return {name: normal(*shape) for name, shape in shapes.items()}


def dense(p, x):
    h = jax.nn.relu(x @ p["a"] + p["b"])
    return jax.nn.gelu(h @ p["c"] + p["d"]) @ p["e"]


def einsum(p, x):
    h = jax.nn.relu(jnp.einsum("qp,np->nq", p["a"], x) + p["b"])
    return jnp.tensordot(jax.nn.gelu(jnp.dot(h, p["c"]) + p["d"]), p["e"], axes=1)


def pointwise(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def convolution(p, x):
    h = jax.nn.relu(pointwise(x[:, None, None], p["a"]) + p["b"])
    return pointwise(jax.nn.gelu(pointwise(h, p["c"]) + p["d"]), p["e"])[:, 0, 0]


def behind_a_convolution(p, x):
    return dense(p, pointwise(x[:, :, None, None], p["k"])[:, :, 0, 0])


def by_example(p, x):
    def one(v):
        h = jax.nn.relu(p["a"] @ v + p["b"])
        return p["e"] @ jax.nn.gelu(p["c"] @ h + p["d"])

    return jax.vmap(one)(x)


def turned(p, x):
    h = jax.nn.relu((p["a"].T @ x.T) + p["b"][:, None])
    return (jax.nn.gelu(h.T @ p["c"] + p["d"]).T[:, :, None] * p["e"][:, None]).sum(0)


def flat_then_back(p, x):
    h = jax.nn.relu(x @ p["a"] + p["b"]).reshape(1, 3, 8, 1).transpose(3, 0, 1, 2)
    return jax.nn.gelu(h.reshape(3, 8) @ p["c"] + p["d"]) @ p["e"]


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, use_bias=False)(nn.gelu(nn.Dense(7)(nn.relu(nn.Dense(8)(x)))))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.a, self.c = nnx.Linear(5, 8, rngs=rngs), nnx.Linear(8, 7, rngs=rngs)
        self.e = nnx.Linear(7, 3, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.e(jax.nn.gelu(self.c(jax.nn.relu(self.a(x)))))


def linen_layers():
    module = Linen()
    return module.apply, module.init(jax.random.key(0), X)


def nnx_layers():
    graph, state = nnx.split(Nnx(nnx.Rngs(0)))
    return lambda p, x: nnx.merge(graph, p)(x), state


def equinox_layers():
    if importlib.util.find_spec("equinox") is None:
        pytest.skip("equinox isn't installed")
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), 3)
    layers = [
        eqx.nn.Linear(p, q, use_bias=q != 3, key=key)
        for p, q, key in zip((5, 8, 7), (8, 7, 3), keys, strict=True)
    ]
    params, static = eqx.partition(layers, eqx.is_array)

    def apply(params, x):
        a, c, e = eqx.combine(params, static)
        return jax.vmap(lambda v: e(jax.nn.gelu(c(jax.nn.relu(a(v))))))(x)

    leaves, structure = jax.tree.flatten(params)
    named = {f"leaf{n}": leaf for n, leaf in enumerate(leaves)}
    return lambda p, x: apply(jax.tree.unflatten(structure, list(p.values())), x), named


CONVOLVED = {"a": (1, 1, 5, 8), "c": (1, 1, 8, 7), "e": (1, 1, 7, 3)}
BY_EXAMPLE = {"a": (8, 5), "c": (7, 8), "e": (3, 7)}
LAYERS = {
    "einsum": lambda: (einsum, two_layers(a=(8, 5))),
    "convolution": lambda: (convolution, two_layers(**CONVOLVED)),
    "behind a convolution": lambda: (behind_a_convolution, two_layers(k=(1, 1, 1, 1))),
    "by example": lambda: (by_example, two_layers(**BY_EXAMPLE)),
    "flat, then back": lambda: (flat_then_back, two_layers()),
    "jit": lambda: (jax.jit(dense), two_layers()),
    "remat": lambda: (jax.checkpoint(dense), two_layers()),
    "linen": linen_layers,
    "nnx": nnx_layers,
    "equinox": equinox_layers,
}


@pytest.mark.parametrize("way", LAYERS)
def test_layers_have_the_same_sites_however_they_are_written(way):
    expected = {(8, "bent", (), True): 1, (7, "bent", (), True): 1}
    assert sites(dense, two_layers(), X) == expected
    assert sites(*LAYERS[way](), X) == expected


def test_a_product_written_as_a_sum_is_refused():
    network = analysed(turned, two_layers(), (X,))
    assert [site.width for site in network.sites] == [8]


def gate(p, x):
    return (jax.nn.silu(x @ p["g"]) * (x @ p["u"])) @ p["o"]


def fused_gate(p, x):
    g, u = jnp.split(x @ p["gu"], 2, axis=-1)
    return (jax.nn.silu(g) * u) @ p["o"]


def sliced_gate(p, x):
    both = x @ p["gu"]
    return (jax.nn.silu(both[..., :8]) * both[..., 8:]) @ p["o"]


def stacked_gate(p, x):
    both = jnp.einsum("btd,dgh->gbth", x, p["gu"].reshape(6, 2, 8))
    return (jax.nn.silu(both[0]) * both[1]) @ p["o"]


def test_gates_have_the_same_sites_however_they_are_fused():
    apart = {"g": normal(6, 8), "u": normal(6, 8), "o": normal(8, 6)}
    fused = {"gu": normal(6, 16), "o": normal(8, 6)}
    expected = sites(gate, apart, SEQUENCE, linear=False)
    assert expected == {(8, "bent", (), False): 1}
    for apply in (fused_gate, sliced_gate, stacked_gate):
        assert sites(apply, fused, SEQUENCE, linear=False) == expected


def attend(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("bthk,bshk->bhts", q, k), axis=-1)
    return jnp.einsum("bhts,bshk->bthk", weights, v)


def attention(p, x):
    q, k, v = (jnp.einsum("btd,dhk->bthk", x, p[n]) for n in "qkv")
    return jnp.einsum("bthk,hkd->btd", attend(q, k, v), p["o"])


def flat_attention(p, x):
    q, k, v = ((x @ p[n]).reshape(2, 4, 2, 3) for n in "qkv")
    return attend(q, k, v).reshape(2, 4, 6) @ p["o"]


def fused_attention(p, x):
    q, k, v = (y.reshape(2, 4, 2, 3) for y in jnp.split(x @ p["qkv"], 3, axis=-1))
    return attend(q, k, v).reshape(2, 4, 6) @ p["o"]


def stacked_attention(p, x):
    q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(2, 4, 3, 2, 3), 2, 0)
    return attend(q, k, v).reshape(2, 4, 6) @ p["o"]


def mapped_attention(p, x):
    def head(q, k, v, o):
        weights = jax.nn.softmax((x @ q) @ jnp.swapaxes(x @ k, -1, -2), axis=-1)
        return weights @ (x @ v) @ o

    return jax.vmap(head)(p["q"], p["k"], p["v"], p["o"]).sum(0)


def test_attention_has_the_same_sites_however_it_is_fused():
    apart = {n: normal(6, 2, 3) for n in "qkv"} | {"o": normal(2, 3, 6)}
    flat = {n: normal(6, 6) for n in "qkvo"}
    mapped = {n: normal(2, 6, 3) for n in "qkv"} | {"o": normal(2, 3, 6)}
    expected = sites(attention, apart, SEQUENCE)
    assert expected == {
        (3, "paired", (2,), False): 1, (3, "straight", (2,), False): 1,
        (2, "blocks", (), False): 1,
    }  # fmt: skip
    assert sites(flat_attention, flat, SEQUENCE) == expected
    fused = {"qkv": normal(6, 18), "o": flat["o"]}
    assert sites(fused_attention, fused, SEQUENCE) == expected
    # Here values have the same axis as queries and keys: they keep the same coordinates.
    stacked = {key: n for key, n in expected.items() if key[1] != "straight"}
    assert sites(stacked_attention, fused, SEQUENCE) == stacked
    ranks = {key: n for key, n in expected.items() if key[1] != "blocks"}
    found = sites(mapped_attention, mapped, SEQUENCE)
    assert {key: n for key, n in found.items() if key[1] != "blocks"} == ranks


def branches(p, x):
    return jax.nn.relu(x @ p["a"]), jnp.tanh(x @ p["b"])


def concatenated(p, x):
    return jnp.concatenate(branches(p, x), axis=-1) @ p["o"]


def summed(p, x):
    a, b = branches(p, x)
    return a @ p["o1"] + b @ p["o2"]


def cut(p, x):
    a, b = branches(p, x)
    return a @ p["o"][:4] + b @ p["o"][4:]


def test_concatenated_features_have_the_same_sites_as_a_sum_of_products():
    params = {"a": normal(5, 4), "b": normal(5, 6)}
    apart = params | {"o1": normal(4, 3), "o2": normal(6, 3)}
    expected = sites(summed, apart, X)
    assert expected == {(4, "bent", (), True): 1, (6, "bent", (), True): 1}
    assert sites(concatenated, params | {"o": normal(10, 3)}, X) == expected
    assert sites(cut, params | {"o": normal(10, 3)}, X) == expected


def block(p, x):
    y = x + jax.nn.gelu(x @ p["up"] + p["bias"]) @ p["down"]
    return y / jnp.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)


def unrolled(p, x):
    for n in range(3):
        x = block(jax.tree.map(lambda w, n=n: w[n], p["layers"]), x)
    return x @ p["head"]


def scanned(p, x):
    return lax.scan(lambda x, own: (block(own, x), None), x, p["layers"])[0] @ p["head"]


def scanned_with_remat(p, x):
    step = jax.checkpoint(lambda x, own: (block(own, x), None))
    return lax.scan(step, x, p["layers"])[0] @ p["head"]


def separate(p, x):
    for n in range(3):
        x = block(p[f"layer{n}"], x)
    return x @ p["head"]


def test_scanned_layers_have_the_sites_of_unrolled_ones():
    layers = {"up": normal(3, 6, 8), "bias": normal(3, 8), "down": normal(3, 8, 6)}
    params, loose = {"layers": layers, "head": normal(6, 3)}, {"head": normal(6, 3)}
    for n in range(3):
        loose[f"layer{n}"] = jax.tree.map(lambda w, n=n: w[n], layers)
    x = SEQUENCE @ normal(6, 6)
    inside = lambda apply: lambda p, x: apply(p, x @ p["first"])  # noqa: E731
    first = {"first": normal(6, 6)}
    expected = sites(inside(separate), loose | first, x, linear=False)
    assert expected == {(6, "normed", (), False): 1, (8, "bent", (), False): 3}
    for apply in (scanned, scanned_with_remat):
        assert sites(inside(apply), params | first, x, linear=False) == expected
    assert sites(inside(unrolled), params | first, x, linear=False)[8, "bent", (), False] in (1, 3)
