"""Tracing finds sites whatever the framework, and refuses what it can't fold, with reasons."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import linjax
from tests.arrays import placed

X = placed(np.random.default_rng(0).normal(size=(4, 3)))


def reasons(net):
    return {refusal.name: refusal.reason for refusal in net.graph.refusals}


def outline(net):
    return [(s.name, s.width, s.activation.name, s.consumers) for s in net.graph.sites]


def normal(*shape):
    return placed(np.random.default_rng(sum(shape)).normal(size=shape))


class Linen(nn.Module):
    """Dense layers whose names are not the order in which they are called."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(5)(nn.gelu(nn.remat(nn.Dense)(6)(x)))))


class Setup(nn.Module):
    """The same, by setup, with a submodule under jit."""

    def setup(self):
        self.last, self.first = nn.Dense(2), nn.Dense(6)

    def __call__(self, x):
        return self.last(jax.jit(nn.silu)(self.first(x)))


class Module(nnx.Module):
    """An NNX network in mixed precision."""

    def __init__(self, rngs):
        self.z = nnx.Linear(3, 6, rngs=rngs)
        self.a = nnx.Linear(6, 2, rngs=rngs, dtype=jnp.bfloat16)

    def __call__(self, x):
        return self.a(nnx.relu(self.z(x)))


def test_linen_names_are_not_taken_for_order():
    variables = Linen().init(jax.random.key(0), X)
    net = linjax.trace(Linen().apply, variables, X)
    assert [(w, a, c) for _, w, a, c in outline(net)] == [
        (6, "gelu (tanh)", ("Dense_1",)),
        (5, "relu", ("Dense_0",)),
    ]
    assert not net.graph.refusals and len(net.graph.chains) == 1


def test_linen_setup():
    variables = Setup().init(jax.random.key(0), X)
    assert outline(linjax.trace(Setup().apply, variables, X)) == [("first", 6, "silu", ("last",))]


def test_nnx_in_mixed_precision():
    model = Module(nnx.Rngs(0))
    graphdef, state = nnx.split(model)

    def apply(params, x):
        now = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(now, params)
        return nnx.merge(graphdef, now)(x)

    params = nnx.to_pure_dict(state)
    net = linjax.trace(apply, params, X)
    assert outline(net) == [("z", 6, "relu", ("a",))]
    np.testing.assert_array_equal(net.run(params, X).outputs, apply(params, X))


def test_equinox_under_vmap():
    model = eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    net = linjax.trace(lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, X)
    assert [(w, a) for _, w, a, _ in outline(net)] == [(8, "relu"), (8, "relu")]
    assert net.graph.affines[0].layout == (1, 0)
    np.testing.assert_allclose(
        net.run(params, X).outputs, net.apply(params, X), rtol=1e-5, atol=1e-6
    )


def test_bare_lists_custom_activation_and_several_consumers():
    @jax.custom_jvp
    def bend(z):
        return jnp.where(z > 0, z, jnp.expm1(z))

    bend.defjvps(lambda t, out, z: t * jnp.where(z > 0, 1.0, jnp.exp(z)))
    params = [(normal(3, 5), normal(5)), normal(5, 2), normal(5, 4)]

    def apply(params, x):
        h = bend(x @ params[0][0] + params[0][1])
        return h @ params[1], h @ params[2]

    net = linjax.trace(apply, params, X)
    assert outline(net) == [("0", 5, "elu", ("1", "2"))]


@pytest.mark.parametrize(
    ("name", "function", "slopes"),
    [
        ("relu", jax.nn.relu, (0.0, 1.0)),
        ("leaky_relu(0.1)", lambda z: jax.nn.leaky_relu(z, 0.125), (0.125, 1.0)),
        ("identity", lambda z: z, (1.0, 1.0)),
        ("abs", jnp.abs, (-1.0, 1.0)),
        ("relu6", jax.nn.relu6, None),
        ("hard_tanh", jax.nn.hard_tanh, None),
        ("gelu", lambda z: jax.nn.gelu(z, approximate=False), None),
        ("softplus", jax.nn.softplus, None),
        ("tanh", jnp.tanh, None),
        ("squared_relu", lambda z: jax.nn.relu(z) ** 2, None),
        ("hard_silu", jax.nn.hard_silu, None),
    ],
)
def test_activations_are_measured(name, function, slopes):
    params = {"a": normal(3, 5), "b": normal(5, 2)}
    net = linjax.trace(lambda p, x: function(x @ p["a"]) @ p["b"], params, X)
    activation = net.graph.sites[0].activation
    assert activation.slopes == slopes
    assert activation.name.split("(")[0] == name.split("(")[0]


A, B, C = normal(3, 5), normal(5, 2), normal(5, 5)


@pytest.mark.parametrize(
    ("apply", "params", "site", "form"),
    [
        (lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["c"]) @ p["c"] @ p["b"],
         {"a": A, "b": B, "c": C}, "a", "bent"),  # a kernel is used twice
        (lambda p, x: (lambda h: (h @ p["b"], h.sum()))(jax.nn.relu(x @ p["a"])),
         {"a": A, "b": B}, "a", "normed"),
        (lambda p, x: (jax.nn.relu(x @ p["a"]) * x.sum()) @ p["b"],
         {"a": A, "b": B}, "a", "bent"),
        (lambda p, x: jnp.concatenate([jax.nn.relu(x @ p["a"]), x], -1) @ p["m"],
         {"a": A, "m": normal(8, 2)}, "a", "bent"),
        (lambda p, x: (z := jax.nn.relu(x @ p["g"]))[:, :5] @ p["b"] + z[:, 5:] @ p["b2"],
         {"g": normal(3, 10), "b": B, "b2": B + 1}, "g", "bent"),
        (lambda p, x: (x @ p["e"] + jax.nn.relu(x @ p["e"] @ p["c"]) @ p["d"]) @ p["b"],
         {"e": A, "c": C, "d": normal(5, 5), "b": B}, "e", "straight"),
        (lambda p, x: (lambda z: (jax.nn.relu(z) @ p["b"], jnp.tanh(z) @ p["b2"]))(x @ p["a"]),
         {"a": A, "b": B, "b2": B + 1}, "a", "bent"),
        (lambda p, x: (lambda h: (h[:, None] + h[None]) @ p["b"])(jax.nn.relu(x @ p["a"])),
         {"a": A, "b": B}, "a", "bent"),  # one sample with another
        (lambda p, x: (lambda h: (h + h[::-1]) @ p["b"])(jax.nn.relu(x @ p["a"])),
         {"a": A, "b": B}, "a", "bent"),
        (lambda p, x: jax.nn.relu(x @ p["a"] * p["s"]) @ p["b"] + p["s"][:2],
         {"a": A, "s": normal(5), "b": B}, "a", "bent"),  # a scale is used elsewhere, too
        (lambda p, x: jax.nn.relu(x @ p["a"].astype(jnp.float32)) @ p["b"],
         {"a": jnp.ones((3, 5), jnp.int8), "b": B}, "a", "bent"),
        (lambda p, x: jax.nn.relu(x @ p["a"].astype(jnp.bfloat16).astype(jnp.float32)) @ p["b"],
         {"a": A, "b": B}, "a", "bent"),
        (lambda p, x: jax.nn.relu(x @ jnp.round(p["a"])) @ p["b"], {"a": A, "b": B}, "a", "bent"),
    ],
)  # fmt: skip
def test_what_plain_maps_do_not_make_or_read_is_in_no_chain(apply, params, site, form):
    net = linjax.trace(apply, params, X)
    assert site not in {name for chain in net.graph.chains for name in chain.maps}
    assert [s.form.value for s in net.network.sites if s.name == site] == [form]
    assert site in repr(net)


@pytest.mark.parametrize(
    ("apply", "params", "site", "reason"),
    [
        (lambda p, x: (lambda h: (h @ p["b"], h))(jax.nn.relu(x @ p["a"])),
         {"a": A, "b": B}, "a", "network's output"),
        (lambda p, x: jax.nn.softmax(x @ p["a"]) @ p["b"],
         {"a": A, "b": B}, "a", "reduce_max mixes its coordinates"),
        (lambda p, x: jax.nn.relu(x @ p["a"]).T @ p["t"],
         {"a": A, "t": normal(4, 2)}, "a", "network's output"),
        (lambda p, x: jax.lax.scan(lambda h, w: (jax.nn.relu(h @ w), None), x, p["s"])[0],
         {"s": normal(2, 3, 3)}, "s", "network's input"),
    ],
)  # fmt: skip
def test_what_cannot_be_folded_is_refused_with_a_reason(apply, params, site, reason):
    net = linjax.trace(apply, params, X)
    assert not net.graph.sites and site not in {s.name for s in net.network.sites}
    assert reason in reasons(net)[site] and reason in repr(net)


def test_a_refused_part_leaves_the_rest_foldable():
    params = {"a": A, "b": normal(5, 3), "c": normal(3, 7), "d": normal(7, 2)}

    def apply(p, x):
        y = x + jax.nn.softmax(x @ p["a"]) @ p["b"]
        return jax.nn.relu(y @ p["c"]) @ p["d"]

    net = linjax.trace(apply, params, X)
    assert [s.name for s in net.graph.sites] == ["c"]
    assert net.graph.chains[0].source == "hidden" and "a" in reasons(net)


def test_a_table_of_sites():
    params = {"a": A, "b": B}
    net = linjax.trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, X)
    assert "1 foldable sites, 25 parameters" in repr(net) and "bent" in repr(net)


def test_bad_arguments():
    with pytest.raises(linjax.StructureError, match="no leaves"):
        linjax.trace(lambda p, x: x, {}, X)
    with pytest.raises(linjax.StructureError, match="one array; give it a name"):
        linjax.trace(lambda p, x: x @ p, jnp.ones((3, 3)), jnp.ones((1, 3)))
    with pytest.raises(linjax.StructureError, match="two leaves"):
        linjax.trace(lambda p, x: x @ p[0], _Clash(A, C), X)


@jax.tree_util.register_pytree_with_keys_class
class _Clash:
    """A pytree whose two leaves have paths that read the same."""

    def __init__(self, *parts):
        self.parts = parts

    def __getitem__(self, key):
        return self.parts[int(key)]

    def tree_flatten_with_keys(self):
        keys = (jax.tree_util.DictKey(0), jax.tree_util.DictKey("0"))
        return tuple(zip(keys, self.parts, strict=True)), None

    @classmethod
    def tree_unflatten(cls, _, parts):
        return cls(*parts)


class Noisy(nnx.Module):
    """A network whose state holds a random key and a counter beside its kernels."""

    def __init__(self, rngs):
        self.a = nnx.Linear(3, 32, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.b = nnx.Linear(32, 2, rngs=rngs)

    def __call__(self, x):
        return self.b(self.drop(nnx.relu(self.a(x))))


def test_dropout_in_inference_and_random_keys_in_the_state():
    model = Noisy(nnx.Rngs(0))
    model.eval()
    graph, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    params["a"]["bias"] = params["a"]["bias"] + 9.0
    net = linjax.trace(lambda p, x: nnx.merge(graph, p)(x), params, X)
    folded = linjax.fold(params, linjax.collect(net, params, [X]), linjax.threshold(1.0))
    assert linjax.count(folded) < linjax.count(params) == 3 * 32 + 32 + 32 * 2 + 2
    assert "key" in folded["drop"]["rngs"]
    np.testing.assert_allclose(net.apply(folded, X), net.apply(params, X), rtol=1e-3, atol=1e-3)
