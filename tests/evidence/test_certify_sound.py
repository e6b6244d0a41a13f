"""No certificate for what a function doesn't compute: refused, or true of what it does compute."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence.bounds import Verdict

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
relu = jax.nn.relu
UNITS = 48


def tent(z, centre, half):
    return jnp.maximum(half - jnp.abs(z - centre), 0)


def back(z, dtype):
    return z.astype(dtype).astype(z.dtype)


def sound(apply, params, low, high, x, close=1e-4, batch=1):
    """Whether certificates are refused, or agree with what the function computes on ``x``.

    Checks every certificate, every bound (as far as activations tell: of the units that are
    proved off or on), and the exact fold. Returns what was proved, None where it was refused.
    """
    net = linjax.trace(apply, params, x[:batch])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", linjax.FoldWarning)
        bounds = linjax.certify(net, params, low, high)
    if bounds.reasons:
        assert not any(site.verdict.any() for site in bounds.sites)
        assert linjax.check_certificate(net, params, bounds).ok
        return None
    assert linjax.check_certificate(net, params, bounds).ok
    folded = linjax.fold(params, bounds)
    want, got = (np.asarray(y, np.float64) for y in (apply(params, x), net.apply(folded, x)))
    np.testing.assert_allclose(got, want, rtol=0, atol=close * max(np.abs(want).max(), 1e-30))
    return bounds


def plain(activation, scale=1.0, seed=0):
    """A network of one input: units that are on, off or neither, at all places around zero."""
    rng = np.random.default_rng(seed)
    sign = rng.choice([-1.0, 1.0], UNITS)
    params = {
        "w": scale * (sign * rng.uniform(0.2, 1.0, UNITS))[None],
        "b": scale * np.linspace(-4.0, 4.0, UNITS),
        "v": rng.normal(size=(UNITS, 3)) / scale,
    }
    params = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}
    return lambda p, x: activation(x @ p["w"] + p["b"]) @ p["v"], params


X = jnp.linspace(0.0, 1.0, 201)[:, None]

WRONG = {
    "a tent": (lambda z: tent(z, 2.5, 0.5), 1),
    "a tent within a relu": (lambda z: relu(z) + tent(z, 1.5, 0.4), 1),
    "a tent taken from a relu": (lambda z: relu(z) - tent(z, 2.5, 1.2), 1),
    "a tent far out": (lambda z: relu(z) + tent(z, 3e9, 9e8), 1e9),
    "a tent close to zero": (lambda z: relu(z) + tent(z, 1.5e-9, 4e-10), 1e-9),
    "a tent below zero": (lambda z: relu(z) + tent(z, -2.5, 1.2), 1),
    "a tent in a leaky relu": (lambda z: jax.nn.leaky_relu(z, 0.25) + tent(z, 3, 0.9), 1),
    "a notch": (lambda z: jnp.where((z > 1.1) & (z < 1.9), 0, relu(z)), 1),
    "a notch in the identity": (lambda z: jnp.where((z > 2.1) & (z < 3.9), 0, z), 1),
    "a window": (lambda z: jnp.where((z > 2.1) & (z < 3.9), z, 0), 1),
    "saturating far out": (lambda z: jnp.clip(z, 0, 1.5e20), 1e20),
    "saturating below": (lambda z: jnp.clip(jax.nn.leaky_relu(z), -1e18, None), 1e20),
    "saturating at six": (lambda z: jax.nn.relu6(4 * z), 1),
    "a kink beside zero": (lambda z: jnp.where(z > 0.3, z, 0.1 * z), 1),
    "shifted": (lambda z: relu(z - 0.3), 1),
    "lifted": (lambda z: relu(z) + 0.3, 1),
    "a step": (lambda z: jnp.where(z > 1.5, 1.0, 0.0), 1),
    "a step at zero": (lambda z: jnp.where(z > 0, 1.0, 0.0), 1),
    "a triangle wave": (lambda z: jnp.abs(z - jnp.round(z)), 1),
    "a saw that is zero at integers": (lambda z: relu(z) + z - jnp.floor(z), 1),
    "a sine": (lambda z: relu(z) + jnp.sin(2 * jnp.pi * z), 1),
    "a remainder": (lambda z: jax.lax.rem(z, jnp.float32(1)), 1),
    "truncated": (lambda z: back(relu(z), jnp.int32), 1),
    "truncated far out": (lambda z: back(relu(z), jnp.int32), 2.0**40),
    "rounded to eight bits": (lambda z: back(relu(z), jnp.float8_e4m3fn), 1),
    "rounded to bfloat16": (lambda z: back(relu(z), jnp.bfloat16), 1),
    "rounded by a large number": (lambda z: relu(z) + 1e8 - 1e8, 1),
    "what rounding chooses": (lambda z: jnp.where(z * 3 - z * 2 >= z, relu(z), 0), 1),
    "what rounding leaves": (lambda z: (z * 1.0000001 - z) * 1e7, 1),
    "by its bits": (
        lambda z: jax.lax.bitcast_convert_type(
            jax.lax.bitcast_convert_type(relu(z), jnp.int32) & 0x7F800000, jnp.float32
        ),
        1,
    ),
    "a hat of two": (lambda z: relu(z) - 2 * relu(z - 2.5) + relu(z - 3), 1),
    "absolute value at one": (lambda z: jnp.abs(z - 1), 1),
    "squared": (lambda z: relu(z) ** 2, 1),
    "softplus": (lambda z: jax.nn.softplus(20 * z), 1),
    "gelu": (lambda z: jax.nn.gelu(20 * z), 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_activations_that_are_not_linear_on_either_side_of_zero_are_refused(name):
    function, scale = WRONG[name]
    assert sound(*plain(function, scale), 0.0, 1.0, X) is None


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("slope", [0.0, 0.125, -1.0])
def test_activations_that_are_go_on_being_certified(slope, dtype):
    apply, params = plain(lambda z: jnp.where(z > 0, z, slope * z))
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    close = 1e-4 if dtype == jnp.float32 else 0.05
    bounds = sound(apply, params, 0.0, 1.0, X.astype(dtype), close)
    assert {*bounds.sites[0].verdict} == {1, 2, 3}


@pytest.mark.parametrize(
    "function",
    [
        lambda z, a: jnp.where(z >= 0, z, a * z) + tent(z, 1.5, 0.4),
        lambda z, a: jnp.maximum(z, a * z),
        lambda z, a: jnp.where(z >= a, z, 0),
        lambda z, a: jnp.where(z >= 0, z, back(a, jnp.int8) * z),
        lambda z, a: jnp.where(z >= 0, z, a * a * z),
        lambda z, a: jnp.clip(z, 0, a),
        lambda z, a: relu(z) + a,
        lambda z, a: a * relu(z) + (1 - a) * relu(z),
    ],
)
@pytest.mark.parametrize("shape", [(), (UNITS,)])
def test_learned_activations_of_other_forms_are_refused(function, shape):
    _, params = plain(relu)
    params["a"] = jnp.full(shape, 0.3125)

    def apply(p, x):
        return function(x @ p["w"] + p["b"], p["a"]) @ p["v"]

    assert sound(apply, params, 0.0, 1.0, X) is None


@pytest.mark.parametrize(
    "other",
    [lambda z: back(relu(z), jnp.int32), lambda z: back(relu(z), jnp.bfloat16), lambda z: z,
     lambda z: back(relu(z), jnp.uint8)],
)  # fmt: skip
def test_two_readers_of_different_functions(other):
    apply, params = plain(relu)
    params["u"] = params["v"][::-1] + 1

    def both(p, x):
        return apply(p, x) + other(x @ p["w"] + p["b"]) @ p["u"]

    assert sound(both, params, 0.0, 1.0, X) is None


# What the function does to its input: some leaves the box, some doesn't.

BOX = np.array([0.6, 0.1, -0.9, 0.25]), np.array([0.95, 0.7, 0.3, 0.75])
FRAME = np.random.default_rng(1).uniform(*BOX, (400, 4))
CORNERS = np.where(np.random.default_rng(2).random((400, 4)) < 0.5, *BOX)
FRAME = jnp.asarray(np.concatenate([FRAME, CORNERS]), jnp.float32)

INPUTS = {
    "int32": lambda x: back(x, jnp.int32),
    "int8": lambda x: back(x, jnp.int8),
    "uint8": lambda x: back(x, jnp.uint8),
    "bool": lambda x: back(x, jnp.bool_),
    "float8": lambda x: back(x, jnp.float8_e4m3fn),
    "times a thousand in float8": lambda x: back(x * 1000, jnp.float8_e4m3fn) / 1000,
    "truncated behind a reshape": lambda x: back(x.reshape(-1, 4), jnp.int32),
    "rounded": jnp.round,
    "floor": jnp.floor,
    "clipped": lambda x: jnp.clip(x, 0.3, 0.5),
    "negative": lambda x: -x,
    "one minus": lambda x: 1 - x,
    "doubled": lambda x: x + x,
    "scaled": lambda x: x / 255,
    "shifted": lambda x: x - 0.5,
    "normalised": lambda x: (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-6),
    "normalised over the batch": lambda x: x - x.mean(0),
    "squared": lambda x: x * x,
    "absolute": jnp.abs,
    "sign": jnp.sign,
    "masked": lambda x: jnp.where(x > 0.5, x, 0),
    "sorted": lambda x: jnp.sort(x, -1),
    "reversed": lambda x: x[:, ::-1],
    "rolled": lambda x: jnp.roll(x, 1, 1),
    "from another example": lambda x: jnp.roll(x, 1, 0),
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "reduced precision": lambda x: jax.lax.reduce_precision(x, 5, 2),
    "by its bits": lambda x: jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(x, jnp.int32) & 0x7F800000, jnp.float32
    ),
    "transposed twice over": lambda x: x.reshape(-1, 2, 2).transpose(0, 2, 1).reshape(-1, 4),
    "halves exchanged": lambda x: jnp.concatenate([x[:, 2:], x[:, :2]], 1),
}


def four(prefix, seed=0):
    """A network of four inputs with units whose signs are decided in the box by little."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(4, UNITS))
    low, high = BOX
    least = low @ np.maximum(kernel, 0) + high @ np.minimum(kernel, 0)
    most = high @ np.maximum(kernel, 0) + low @ np.minimum(kernel, 0)
    bias = np.where(np.arange(UNITS) % 2, -least, -most) + 1e-3 * rng.choice([-1, 1], UNITS)
    params = {"w": kernel, "b": bias, "v": rng.normal(size=(UNITS, 3))}
    params = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}
    return lambda p, x: relu(prefix(x) @ p["w"] + p["b"]) @ p["v"], params


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_do_not_stay_in_the_box_are_refused(name):
    apply, params = four(INPUTS[name])
    assert sound(apply, params, *BOX, FRAME) is None
    with pytest.warns(linjax.FoldWarning, match="w: it reads the "):
        linjax.certify(linjax.trace(apply, params, FRAME[:1]), params, *BOX)


SAME = {
    "as it is": lambda x: x,
    "flattened": lambda x: x.reshape(x.shape[0], -1),
    "through images": lambda x: x.reshape(-1, 2, 2).reshape(-1, 4),
    "bfloat16 and back": lambda x: back(x, jnp.bfloat16),
    "float16 and back": lambda x: back(x, jnp.float16),
}


@pytest.mark.parametrize("name", SAME)
def test_inputs_that_are_rounded_are_bounded_as_rounded(name):
    bounds = sound(*four(SAME[name]), *BOX, FRAME)
    assert Verdict.ACTIVE in bounds.sites[0].verdict and Verdict.INACTIVE in bounds.sites[0].verdict


def test_a_reader_of_the_batch_takes_no_box_of_features():
    """Four examples are read for each feature: the box's sides are other inputs' sides."""
    params = four(lambda x: x)[1]

    def across(p, x):
        return relu(jnp.einsum("fn,fu->nu", x, p["w"]) + p["b"]) @ p["v"]

    for rows in np.split(FRAME[:80], 20):
        sound(across, params, *BOX, rows, batch=4)
    alike = sound(across, params, -0.9, 0.95, FRAME[:4], batch=4)
    assert alike is not None  # one number holds for all of them


def test_examples_that_are_mixed_take_no_box_of_features():
    apply, params = four(lambda x: jnp.swapaxes(x.reshape(-1, 2, 4), 0, 1).reshape(-1, 4))
    assert sound(apply, params, *BOX, FRAME, batch=4) is None


def test_a_second_input_has_no_box():
    apply, params = four(lambda x: x)
    net = linjax.trace(lambda p, x, y: apply(p, y) + x.sum(), params, FRAME[:1], FRAME[:1])
    with pytest.warns(linjax.FoldWarning, match="w: it doesn't read the first input"):
        linjax.certify(net, params, *BOX)


# What the function does to its parameters.

KERNELS = {
    "int8": lambda w: back(w, jnp.int8),
    "int32": lambda w: back(w * 8, jnp.int32) / 8,
    "float8": lambda w: back(w, jnp.float8_e4m3fn),
    "float8, other bits": lambda w: back(w, jnp.float8_e5m2),
    "bfloat16 and back": lambda w: back(w, jnp.bfloat16),
    "float16 and back": lambda w: back(w, jnp.float16),
    "transposed in bfloat16": lambda w: w.astype(jnp.bfloat16).T.T.astype(jnp.float32),
    "rounded": lambda w: jnp.round(w * 4) / 4,
    "negative": lambda w: -w,
    "doubled": lambda w: 2 * w,
    "masked": lambda w: jnp.where(jnp.abs(w) > 0.5, w, 0),
    "normalised": lambda w: w / jnp.linalg.norm(w, axis=0),
    "clipped": lambda w: jnp.clip(w, -1, 1),
    "absolute": jnp.abs,
    "reduced precision": lambda w: jax.lax.reduce_precision(w, 8, 3),
    "reversed": lambda w: w[..., ::-1],
    "shared": lambda w: w + w.mean(),
}


@pytest.mark.parametrize("leaf", ["w", "b", "v"])
@pytest.mark.parametrize("name", KERNELS)
def test_parameters_that_are_changed_on_their_way(name, leaf):
    apply, params = four(lambda x: x)

    def changed(p, x):
        return apply(p | {leaf: KERNELS[name](p[leaf] if p[leaf].ndim > 1 else p[leaf][None])
                          .reshape(p[leaf].shape)}, x)  # fmt: skip

    sound(changed, params, *BOX, FRAME)


def test_a_rounded_kernel_is_in_no_chain():
    apply, params = four(lambda x: x)
    net = linjax.trace(
        lambda p, x: apply(p | {"w": back(p["w"], jnp.bfloat16)}, x), params, FRAME[:1]
    )
    assert "w" not in {name for chain in net.graph.chains for name in chain.maps}
    np.testing.assert_array_equal(
        net.run(params, FRAME).outputs,
        apply(params | {"w": back(params["w"], jnp.bfloat16)}, FRAME),
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_mixed_precision_is_certified_as_it_computes(dtype):
    """1.003 is 1 in bfloat16: what the function computes with decides."""

    def apply(p, x):
        z = x.astype(dtype) @ p["w"].astype(dtype) + p["b"].astype(dtype)
        return relu(z) @ p["v"].astype(dtype)

    near = 1.003 if dtype == jnp.bfloat16 else 1.0004
    params = {"w": jnp.array([[near, 1.0, near, near]]), "b": jnp.array([-1.0, -near, -2.0, 0.25])}
    params["v"] = jnp.ones((4, 2))
    net = linjax.trace(apply, params, X[:1])
    bounds = linjax.certify(net, params, 0.0, 1.0)
    assert linjax.check_certificate(net, params, bounds).ok
    assert bounds.sites[0].verdict.tolist() == [2, 2, 2, 1]
    sound(apply, params, 0.0, 1.0, X, 0.02)


def test_parameters_of_a_wider_dtype_than_the_function_takes():
    """JAX rounds them to float32 when they enter: so do certificates."""
    params = {"w": np.full((1, 2), 1 + 2.0**-30), "b": np.full(2, -1.0), "v": np.ones((2, 1))}
    net = linjax.trace(lambda p, x: relu(x @ p["w"] + p["b"]) @ p["v"], params, X[:1])
    bounds = linjax.certify(net, params, 0.0, 1.0)
    assert bounds.sites[0].verdict.tolist() == 2 * [Verdict.INACTIVE]
    assert linjax.check_certificate(net, params, bounds).ok


def test_slopes_of_another_dtype_are_not_those_that_were_traced():
    apply, params = plain(lambda z: jax.nn.leaky_relu(z, 0.01))
    net = linjax.trace(apply, params, X[:1])
    coarse = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    narrow = linjax.trace(apply, coarse, X[:1].astype(jnp.bfloat16))
    assert narrow.graph.sites[0].activation != net.graph.sites[0].activation
    bounds = linjax.certify(narrow, coarse, 0.0, 1.0)
    assert linjax.check_certificate(narrow, coarse, bounds).ok


def test_the_check_derives_the_activation_itself():
    """A network description that lies about its activation doesn't pass."""
    apply, params = plain(lambda z: relu(z) + tent(z, 1.5, 0.4))
    honest = linjax.trace(plain(relu)[0], params, X[:1])
    bounds = linjax.certify(honest, params, 0.0, 1.0)
    lying = linjax.trace(apply, params, X[:1])
    object.__setattr__(lying, "graph", honest.graph)
    assert not linjax.check_certificate(lying, params, bounds).ok


# Boxes over positions.
