"""Lumping leaves the function alone: whatever the activation, the biases, the dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linjax
from linjax.fold.lossless.proportional import multiples, rounding, storable

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
relu = jax.nn.relu


def lumped(apply, params, x):
    """The function before and after lumping, and the share of its parameters that is left."""
    net = linjax.trace(apply, params, x[:1])
    small = linjax.lump(net, params)
    want, got = (
        np.asarray(y, np.float64) for y in (jax.jit(apply)(params, x), jax.jit(net.apply)(small, x))
    )
    return want, got, linjax.count(small) / linjax.count(params)


def unchanged(apply, params, x, close):
    want, got, share = lumped(apply, params, x)
    assert np.std(got - want) <= close * np.std(want) + 1e-30
    np.testing.assert_allclose(got, want, rtol=0, atol=20 * close * np.abs(want).max())
    return share


def tent(z, centre, half):
    return jnp.maximum(half - jnp.abs(z - centre), 0)


def back(z, dtype):
    return z.astype(dtype).astype(z.dtype)


ACTIVATIONS = {
    "relu": relu,
    "leaky": jax.nn.leaky_relu,
    "abs": jnp.abs,
    "identity": lambda z: z,
    "tent": lambda z: tent(z, 2.5, 0.5),
    "relu with a tent": lambda z: relu(z) + tent(z, 1.5, 0.4),
    "leaky with a tent": lambda z: jnp.maximum(z, 0.25 * z) + tent(z, -3, 0.9),
    "a notch": lambda z: jnp.where((z > 1.1) & (z < 1.9), 0, relu(z)),
    "saturating": jax.nn.relu6,
    "saturating far out": lambda z: jnp.clip(z * 1e18, 0, 3e18) / 1e18,
    "hard tanh": jax.nn.hard_tanh,
    "shifted": lambda z: relu(z - 0.2),
    "kink": lambda z: jnp.where(z > 0.3, z, 0.1 * z),
    "tanh": jnp.tanh,
    "squared": lambda z: relu(z) ** 2,
    "truncated": lambda z: back(relu(z), jnp.int32),
    "bfloat16": lambda z: back(relu(z), jnp.bfloat16),
    "float8": lambda z: back(relu(z), jnp.float8_e4m3fn),
    "rounded away": lambda z: jnp.maximum(z + 3e7, 3e7) - 3e7,
    "by its bits": lambda z: jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(relu(z), jnp.int32) & 0x7F800000, jnp.float32
    ),
    "what rounding chooses": lambda z: jnp.where(z * 3 - z * 2 >= z, relu(z), 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dense_activations(name):
    """Units in pairs of multiples: joined where the function allows it, else left alone."""
    rng = np.random.default_rng(0)
    w = np.repeat(rng.normal(size=(3, 12)), 2, axis=1) * np.tile([1.0, 2.75], 12)
    params = {"w": w, "b": np.repeat(rng.normal(size=12), 2) * np.tile([1.0, 2.75], 12)}
    params["v"] = rng.normal(size=(24, 2))
    params = {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}
    x = jnp.asarray(rng.normal(size=(400, 3)), jnp.float32)
    activation = ACTIVATIONS[name]
    share = unchanged(lambda p, x: activation(x @ p["w"] + p["b"]) @ p["v"], params, x, 1e-5)
    assert (share < 0.6) == (name in ("relu", "leaky", "abs", "identity"))


def images(between, seed=0, dtype=jnp.float32):
    """A convolution with channels in pairs of multiples, and what stands behind it."""
    rng = np.random.default_rng(seed)
    ratio = np.tile([1.0, 2.5], 4)
    params = {
        "w": np.repeat(rng.normal(size=(3, 3, 2, 4)), 2, axis=3) * ratio,
        "b": np.repeat(rng.normal(size=4), 2) * ratio,
        "v": rng.normal(size=(1, 1, 8, 3)),
        "u": rng.normal(size=(1, 1, 8, 3)),
    }
    params = {name: jnp.asarray(leaf, dtype) for name, leaf in params.items()}

    def conv(x, w):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)

    def apply(p, x):
        z = conv(x, p["w"]) + p["b"]
        return between(z, lambda h: conv(h, p["v"]), lambda h: conv(h, p["u"]))

    return apply, params, jnp.asarray(rng.normal(size=(8, 6, 6, 2)), dtype)


def pooled(h, init=-jnp.inf, by=jax.lax.max):
    return jax.lax.reduce_window(h, init, by, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


CHANNELS = {
    "relu": (lambda z, f, g: f(relu(z)), True),
    "pooled": (lambda z, f, g: f(pooled(relu(z))), True),
    "averaged": (lambda z, f, g: f(pooled(relu(z), 0.0, jax.lax.add) / 4), True),
    "read twice": (lambda z, f, g: f(relu(z)) + g(relu(z)), True),
    "read as another function": (lambda z, f, g: f(relu(z)) + g(jnp.tanh(z)), False),
    "another function first": (lambda z, f, g: g(jnp.tanh(z)) + f(relu(z)), False),
    "read before the activation": (lambda z, f, g: g(z + 1) + f(relu(z)), False),
    "tent": (lambda z, f, g: f(relu(z) + tent(z, 1.5, 0.4)), False),
    "squared behind pooling": (lambda z, f, g: f(pooled(relu(z)) * pooled(relu(z))), False),
    "square of pooling": (lambda z, f, g: f((lambda p: p * p)(pooled(relu(z)))), False),
    "inverse behind pooling": (lambda z, f, g: f(1 / pooled(relu(z) + jnp.abs(z))), False),
    "quotient": (lambda z, f, g: f((lambda p: p / (p + 1))(pooled(relu(z)))), False),
    "truncated behind pooling": (lambda z, f, g: f(back(pooled(relu(z)), jnp.int32)), False),
    "bfloat16 behind pooling": (lambda z, f, g: f(back(pooled(relu(z)), jnp.bfloat16)), False),
    "tanh behind pooling": (lambda z, f, g: f(jnp.tanh(pooled(relu(z)))), False),
    "one more behind pooling": (lambda z, f, g: f(pooled(relu(z)) + 1), False),
    "padded by ones": (
        lambda z, f, g: f(jax.lax.pad(relu(z), 1.0, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])),
        False,
    ),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_channels(name):
    between, joined = CHANNELS[name]
    share = unchanged(*images(between), 1e-5)
    assert (share < 0.6) == joined


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_small_channels_are_not_nothing(dtype):
    """Weights of a hundredth, read with weights of a hundred."""
    apply, params, x = images(lambda z, f, g: f(relu(z)), dtype=dtype)
    small = np.where(np.arange(8) < 4, 0.01, 1.0)
    params = {
        "w": params["w"] * small.astype(dtype),
        "b": 0 * params["b"],
        "v": params["v"] / small.astype(dtype)[:, None],
        "u": params["u"],
    }
    params = {name: leaf.astype(dtype) for name, leaf in params.items()}
    # What is left to rounding is that of the dtype, once for every weight.
    unchanged(apply, params, x, 4 * float(jnp.finfo(dtype).eps))


def dense(w, b, v, dtype=np.float32):
    params = {name: jnp.asarray(leaf, dtype) for name, leaf in zip("wbv", (w, b, v), strict=True)}
    return lambda p, x: relu(x @ p["w"] + p["b"]) @ p["v"], params


def test_a_large_bias_does_not_hide_the_weights():
    apply, params = dense([[1.0, -1.0]], [1e7, 1e7], [[1.0], [-1.0]])
    x = jnp.array([[3.0], [1000.0], [1e6]])
    want, got, _ = lumped(apply, params, x)
    assert want.ravel().tolist() == [6.0, 2000.0, 2e6]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("large", [1e3, 1e5, 1e7, 1e30])
def test_nor_does_a_large_weight_hide_others(large):
    """Features of very different size: the small weight is what counts."""
    w = np.array([[large, large], [1.0, -1.0]])
    apply, params = dense(w, [0.0, 0.0], [[1.0], [-1.0]])
    x = jnp.array([[1.0, 3.0], [1.0, -2.0], [1.0, 0.25]]) * jnp.array([1 / large, 1.0])
    want, got, _ = lumped(apply, params, x)
    np.testing.assert_array_equal(got, want)


def test_large_biases_that_differ_a_little():
    """1e7 and 1e7 + 1: the units' difference is one everywhere."""
    apply, params = dense([[1.0, 1.0]], [1e7, 1e7 + 1], [[1.0], [-1.0]])
    x = jnp.array([[3.0], [16.0], [-5.0]])
    want, got, _ = lumped(apply, params, x)
    np.testing.assert_allclose(got, want, rtol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, np.float64])
@pytest.mark.parametrize("bias", [0.0, 1.0, 6.0, 100.0, 3e4])
@pytest.mark.parametrize("inputs", [1, 2, 8])
def test_units_that_are_always_on_in_any_dtype(dtype, bias, inputs):
    """Random weights, biases that dominate them, doubled units: less than rounding changes."""
    rng = np.random.default_rng(0)
    w = 0.1 * rng.normal(size=(inputs, 32))
    w = np.concatenate([w, w[:, :8], 2 * w[:, :8]], axis=1)
    b = np.concatenate([np.full(32, bias), np.full(8, bias), np.full(8, 2 * bias)])
    with jax.enable_x64(dtype is np.float64):
        apply, params = dense(w, b, rng.normal(size=(48, 4)), dtype)
        x = jnp.asarray(rng.normal(size=(500, inputs)), jnp.promote_types(dtype, np.float32))
        net = linjax.trace(apply, params, x[:1])
        small = linjax.lump(net, params)
        both = [{name: np.asarray(leaf, np.float64) for name, leaf in p.items()}
                for p in (params, small)]  # fmt: skip
    # In more bits, so that little but what lumping changed is seen.
    wide = np.asarray(x, np.longdouble)
    real = [np.maximum(wide @ p["w"] + p["b"], 0) @ p["v"] for p in both]
    eps = float(jnp.finfo(dtype).eps)
    close = 64 * eps if eps < 1e-4 else 4 * eps
    assert np.abs(real[1] - real[0]).max() <= close * np.abs(real[0] - real[0].mean(0)).max()
    assert bias or linjax.count(small) <= linjax.count(params)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_exact_twins_go_in_any_dtype(dtype):
    """Whose outgoing weights add up without rounding, however large the bias."""
    rng = np.random.default_rng(0)
    w = np.repeat(rng.normal(size=(3, 8)), 2, axis=1)
    v = rng.integers(-4, 5, (16, 2)) / 4
    apply, params = dense(w, np.repeat(rng.normal(size=8) * 40, 2), v, dtype)
    x = jnp.asarray(rng.normal(size=(200, 3)), jnp.float32)
    want, got, share = lumped(apply, params, x)
    assert share < 0.6
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_mixed_precision_minds_what_is_computed_in():
    """Weights in float32 whose sums the function rounds to bfloat16 behind a large bias."""
    rng = np.random.default_rng(0)
    _, params = dense(
        np.repeat(0.1 * rng.normal(size=(4, 16)), 2, 1), np.full(32, 9.0), rng.normal(size=(32, 3))
    )

    def apply(p, x):
        return relu(x @ p["w"] + p["b"]) @ p["v"].astype(jnp.bfloat16).astype(jnp.bfloat16)

    x = jnp.asarray(rng.normal(size=(300, 4)), jnp.float32)
    unchanged(apply, params, x, 0.02)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_constants_stay_where_their_sum_would_round(dtype):
    """Two constant units that cancel to within the rounding of a large bias."""
    w = np.array([[0.0, 0.0, 1.0]])
    apply, params = dense(w, [1000.0, 1001.0, 0.5], [[1.0], [-1.0], [0.001]], dtype)
    params["c"] = jnp.asarray([300.0], dtype)
    x = jnp.linspace(-1, 1, 50)[:, None]
    want, got, _ = lumped(lambda p, x: apply(p, x) + p["c"], params, x)
    assert np.abs(got - want).max() <= 64 * 1.2e-7 * 300


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["bfloat16", "float16", "float32", "float64"]))
def test_what_is_joined_is_close_by_each_weight(seed, dtype):
    """The bound in the docstring, on columns that nearly are multiples of one another."""
    rng = np.random.default_rng(seed)
    p, m = int(rng.integers(1, 5)), 24
    own = rng.normal(size=(p + 1, 4)) * 10.0 ** rng.integers(-6, 7, (p + 1, 1))
    columns = own[:, rng.integers(0, 4, m)] * rng.uniform(0.1, 9.0, m)
    jitter = 10.0 ** rng.uniform(-9, 0, m) * rng.integers(0, 2, m)
    columns *= 1 + jitter * rng.normal(size=columns.shape)
    with np.errstate(over="ignore"):
        columns = columns.astype(dtype).astype(np.float64)
    kernel, bias = columns[:-1], columns[-1]
    if not np.isfinite(columns).all() or not columns.any(axis=0).all():
        return
    relative = rounding(dtype)
    leader, ratio = multiples(kernel, bias, np.zeros(m, int), relative)
    assert (leader[leader] == leader).all() and (ratio > 0).all()
    size = np.linalg.norm(kernel, axis=0)
    assert (np.abs(kernel - ratio * kernel[:, leader]) <= relative * np.abs(kernel)).all()
    shift = np.abs(bias - ratio * bias[leader])
    assert (shift <= relative * np.minimum(size, np.abs(bias)) + 1e-14 * np.abs(bias)).all()


def test_sums_that_overflow_are_not_stored():
    rows = np.array([[4e4], [4e4]])
    kernel, bias, leader = np.ones((1, 2)), np.zeros(2), np.zeros(2, int)
    merged = np.array([[8e4], [0.0]])
    assert not storable(rows, merged, leader, kernel, bias, np.float16)[0]
    assert storable(rows, merged, leader, kernel, bias, np.float32)[0]
