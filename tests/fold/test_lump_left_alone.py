"""What lumping over dimensions leaves alone: gates, large biases, weights that make and read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from tests.fold.test_lump_sites import (
    agreed,
    conv,
    copied,
    images,
    normal,
    relu,
    single,
    two_layers,
)

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")


GATES = {
    "a gate": lambda z, w: relu(z) * relu(z),
    "its own gate": lambda z, w: z * jax.nn.sigmoid(z),
    "a periodic function": lambda z, w: jnp.sin(z),
    "a step": lambda z, w: jnp.where(z > 0, 1.0, 0.0),
    "a bump": lambda z, w: jnp.maximum(0.5 - jnp.abs(z - 1), 0),
    "the largest place": lambda z, w: jnp.argmax(z, 1).astype(z.dtype)[:, None] + 0 * z,
    "swapped places": lambda z, w: jnp.maximum(z, 1 + z.swapaxes(1, 2)) - z,
    "shifted twice": lambda z, w: relu(z + w) + w,
}


@pytest.mark.parametrize("name", GATES)
def test_what_is_not_homogeneous_keeps_multiples(name):
    rng = np.random.default_rng(9)
    params = two_layers(rng) | {"w": rng.normal(size=6)}

    def apply(p, x):
        z = conv(x, p["a"]) + p["b"]
        return conv(GATES[name](z, p["w"]), p["c"]).mean((1, 2)) @ p["out"]

    small = agreed(apply, single(params), images(rng))
    assert small["a"].shape[-1] == 6
    params = params | {"a": copied(params["a"], 0, 3), "b": copied(params["b"], 0, 3)}
    params["w"] = copied(params["w"], 0, 3)
    assert agreed(apply, single(params), images(rng))["a"].shape[-1] == 5


def test_gates_of_other_channels_and_whole_images():
    """Squeezed and excited: what the gate of a channel is made by counts, too."""
    rng = np.random.default_rng(10)
    params = two_layers(rng) | {"s": normal(rng, 6, 3), "e": copied(normal(rng, 3, 6), 4, 1)}

    def apply(p, x):
        h = relu(conv(x, p["a"]) + p["b"])
        gate = jax.nn.sigmoid(relu(h.mean((1, 2)) @ p["s"]) @ p["e"])
        return conv(h * gate[:, None, None], p["c"]).mean((1, 2)) @ p["out"]

    assert agreed(apply, single(params), images(rng))["a"].shape[-1] == 6
    params["a"], params["b"] = copied(params["a"], 4, 1), copied(params["b"], 4, 1)
    assert agreed(apply, single(params), images(rng))["a"].shape[-1] == 5


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("bias", [0.0, 1.0, 100.0, 2e4])
def test_large_biases_in_any_dtype(dtype, bias):
    rng = np.random.default_rng(11)
    w = np.repeat(normal(rng, 3, 3, 2, 4), 2, -1)
    params = {"a": w, "b": np.full(8, bias), "c": normal(rng, 1, 1, 8, 3)}
    params = {name: jnp.asarray(leaf, dtype) for name, leaf in params.items()}

    def apply(p, x):
        return conv(relu(conv(x, p["a"]) + p["b"]), p["c"])

    net = linjax.trace(apply, params, images(rng).astype(dtype))
    small = linjax.lump(net, params)
    wide = [jax.tree.map(lambda a: np.asarray(a, np.float64), p) for p in (params, small)]
    assert bias or small["a"].shape[-1] < 8 or dtype != jnp.float32
    with jax.enable_x64(True):
        x = rng.normal(size=(3, 6, 6, 2))
        want, got = (np.asarray(apply(p, x)) for p in wide)
    eps = float(jnp.finfo(dtype).eps)
    spread = np.abs(want - want.mean((0, 1, 2))).max()
    assert np.abs(got - want).max() <= (64 if eps < 1e-4 else 4) * eps * spread


def test_a_weight_that_makes_and_reads_is_left_alone():
    rng = np.random.default_rng(12)
    w = copied(normal(rng, 1, 1, 4, 6), 5, 2, 2.0)

    def apply(p, x):
        return conv(relu(conv(conv(x, p["in"]), p["w"])), p["w"].swapaxes(2, 3))

    params = {"in": normal(rng, 1, 1, 2, 4), "w": w}
    assert agreed(apply, single(params), images(rng))["w"].shape[-1] == 6


def test_parameters_that_are_summed_over_channels_are_left_alone():
    rng = np.random.default_rng(13)
    params = two_layers(rng)

    def apply(p, x):
        h = relu(conv(x, p["a"]) * (1 + jnp.sum(p["b"] ** 2)))
        return conv(h, p["c"])

    small = agreed(apply, single(params), images(rng))
    assert small["a"].shape[-1] == 6
