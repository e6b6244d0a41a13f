"""What the algebra of scalar functions claims, against evaluation in float64, where it is hard."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linjax.exact.casts import cast_keeps
from linjax.exact.forms import as_number
from linjax.exact.scalar import describe
from linjax.program.flat import record

relu = jax.nn.relu


def found_of(function, dtype=np.float32):
    program, _ = record(function, np.zeros((), dtype))
    (end,) = program.outputs
    return describe(program, program.ops, program.inputs[0], lambda operand: None, end)


def slopes(function, dtype=np.float32):
    pair = found_of(function, dtype).two_slopes
    return None if pair is None else tuple(float(as_number(slope)) for slope in pair)


HOMOGENEOUS = {
    "relu": (relu, (0, 1)),
    "identity": (lambda z: z, (1, 1)),
    "negative": (lambda z: -z, (-1, -1)),
    "abs": (jnp.abs, (-1, 1)),
    "leaky_relu": (lambda z: jax.nn.leaky_relu(z, 0.25), (0.25, 1)),
    "leaky by max": (lambda z: jnp.maximum(z, z * 0.125), (0.125, 1)),
    "half of z + |z|": (lambda z: (z + jnp.abs(z)) / 2, (0, 1)),
    "masked": (lambda z: z * (z > 0), (0, 1)),
    "masked, by integers": (lambda z: z * (z > 0).astype(jnp.int32).astype(z.dtype), (0, 1)),
    "sign times relu": (lambda z: jnp.sign(z) * relu(z), (0, 1)),
    "where not": (lambda z: jnp.where(~(z >= 0), 0, z), (0, 1)),
    "two relus": (lambda z: relu(z) - 0.5 * relu(-z), (0.5, 1)),
    "never NaN": (lambda z: jnp.where(jnp.isnan(z), 7.0, relu(z)), (0, 1)),
    "finite": (lambda z: jnp.where(jnp.isfinite(z), relu(z), 7.0), (0, 1)),
    "both conditions": (lambda z: jnp.where((z > 0) | (z < 0), relu(z), 0.0), (0, 1)),
    "clipped once": (lambda z: jnp.clip(z, 0), (0, 1)),
    "first power": (lambda z: jax.lax.integer_pow(z, 1), (1, 1)),
    "zero": (lambda z: 0 * z, (0, 0)),
    "cast to bfloat16": (lambda z: relu(z.astype(jnp.bfloat16)), (0, 1)),
}


@pytest.mark.parametrize("name", HOMOGENEOUS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_two_slopes_are_proved(name, dtype):
    function, want = HOMOGENEOUS[name]
    assert slopes(function, dtype) == want


def tent(z, centre, half):
    return jnp.maximum(half - jnp.abs(z - centre), 0)


def quantised(z, dtype):
    return z.astype(dtype).astype(z.dtype)


TEMPTING = {
    "tent": lambda z: tent(z, 2.5, 0.5),
    "relu with a tent": lambda z: relu(z) + tent(z, 1.5, 0.4),
    "relu with a tent far out": lambda z: relu(z) + tent(z, 3e30, 1e30),
    "relu with a tent at nearly zero": lambda z: relu(z) + tent(z, 1.5e-30, 1e-31),
    "a tent below zero": lambda z: relu(z) + tent(z, -1.5, 0.4),
    "leaky with a notch": lambda z: jnp.where((z > 1.1) & (z < 1.9), 0, jnp.maximum(z, 0.1 * z)),
    "saturating": lambda z: jnp.clip(z, 0, 1e30),
    "saturating below": lambda z: jnp.clip(jnp.maximum(z, 0.1 * z), -1e30),
    "relu6": jax.nn.relu6,
    "hard tanh": jax.nn.hard_tanh,
    "a kink that isn't at zero": lambda z: jnp.where(z > 1e-30, z, 0.1 * z),
    "shifted": lambda z: relu(z - 1e-30),
    "lifted": lambda z: relu(z) + 1e-30,
    "a value at zero": lambda z: jnp.where(z == 0, 1.0, relu(z)),
    "a value at one": lambda z: jnp.where(z == 1.5, 0.0, relu(z)),
    "step": lambda z: jnp.where(z > 0, 1.0, 0.0),
    "sign": jnp.sign,
    "moved away and back": lambda z: jnp.maximum(z + 1e8, 1e8) - 1e8,
    "differences that round": lambda z: z * 1.0000001 - z,
    "a choice that rounding makes": lambda z: jnp.where(z * 3 - z * 2 >= z, z, -z),
    "another choice that rounding makes": lambda z: jnp.where(z * 0.1 * 10 >= z, z, -z),
    "maximum that rounding chooses": lambda z: jnp.maximum(z * 0.1 * 10 - z, 0.0),
    "rounded to bfloat16": lambda z: quantised(relu(z), jnp.bfloat16),
    "rounded to float16": lambda z: quantised(relu(z), jnp.float16),
    "rounded to eight bits": lambda z: relu(z).astype(jnp.float8_e4m3fn),
    "truncated": lambda z: quantised(relu(z), jnp.int32),
    "wrapped": lambda z: quantised(relu(z), jnp.uint8),
    "squared": lambda z: relu(z) ** 2,
    "product": lambda z: relu(z) * z,
    "quotient": lambda z: relu(z) / z,
    "inverse": lambda z: 1 / z,
    "floor": jnp.floor,
    "triangle wave": lambda z: jnp.abs(z - jnp.round(z)),
    "remainder": lambda z: jax.lax.rem(z, 2.0),
    "sine": lambda z: z + jnp.sin(z * 6.283185307179586),
    "with infinity": lambda z: jnp.minimum(z, jnp.inf),
    "reduced precision": lambda z: jax.lax.reduce_precision(relu(z), 8, 7),
    "by its bits": lambda z: jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(z, jnp.int32) & 0x7F800000, jnp.float32
    ),
    "next number": lambda z: jax.lax.nextafter(z, jnp.float32(1)),
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
    "tanh": jnp.tanh,
}


@pytest.mark.parametrize("name", TEMPTING)
def test_what_merely_looks_like_it_is_not(name):
    found = found_of(TEMPTING[name])
    assert found.two_slopes is None
    assert found.form is not None or found.reason


@pytest.mark.parametrize(
    ("function", "trend"),
    [
        (jnp.tanh, 1), (jax.nn.sigmoid, 1), (jnp.exp, 1), (lambda z: jnp.exp(-z), -1),
        (lambda z: 1 - jax.nn.sigmoid(3 * z), -1), (lambda z: jnp.tanh(z) / -2, -1),
        (lambda z: jnp.maximum(jnp.tanh(z), relu(z)), 1), (jax.nn.relu6, 1), (jnp.sign, 1),
        (lambda z: jnp.where(z > 1, z - 1, -z), None), (jnp.abs, None), (jax.nn.gelu, None),
        (lambda z: jnp.tanh(z) - jax.nn.sigmoid(z), None), (jnp.sin, None), (lambda z: 0 * z, 0),
        (lambda z: z.astype(jnp.uint8), None), (lambda z: jnp.where(z > 0, z - 1, z), None),
        (lambda z: 2 / jnp.exp(z), None), (lambda z: jnp.tanh(z) * jnp.tanh(z), None),
        (lambda z: jnp.floor(relu(z)), 1), (lambda z: jnp.clip(jnp.tanh(z), -0.5, 0.5), 1),
    ],
)  # fmt: skip
def test_trends(function, trend):
    assert found_of(function).trend == trend


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("float32", "float64", "exact"), ("bfloat16", "float32", "exact"),
        ("float16", "bfloat16", "rounds"), ("bfloat16", "float16", "rounds"),
        ("float32", "float16", "rounds"), ("float32", "float8_e5m2", "changes"),
        ("float8_e4m3fn", "bfloat16", "exact"), ("float32", "int32", "changes"),
        ("float32", "bool", "changes"), ("bool", "float16", "exact"), ("bool", "int8", "exact"),
        ("int8", "float32", "exact"), ("int8", "bfloat16", "exact"), ("uint8", "int8", "changes"),
        ("uint8", "int32", "exact"), ("int32", "float32", "rounds"), ("int16", "int8", "changes"),
        ("int32", "float8_e4m3fn", "changes"), ("complex64", "float32", "changes"),
    ],
)  # fmt: skip
def test_casts(before, after, kept):
    assert cast_keeps(jnp.dtype(before), jnp.dtype(after)) == kept


NUMBERS = [0.0, 1.0, -1.0, 0.5, 2.0, 0.25, 3.0, -2.5, 0.1, 7.0, 1e-3, -100.0]


@st.composite
def expressions(draw, depth=5):
    """A random function of z, of primitives that are piecewise linear where they can be."""
    kind = draw(st.integers(0, 13)) if depth else draw(st.integers(0, 1))
    if kind == 0:
        return lambda z: z
    if kind == 1:
        value = draw(st.sampled_from(NUMBERS))
        return lambda z: jnp.full_like(z, value)
    a = draw(expressions(depth - 1))
    if kind == 2:
        function = draw(st.sampled_from([jnp.abs, jnp.negative, relu, jnp.sign, jnp.square,
                                         jax.nn.relu6, jnp.floor, jnp.tanh]))  # fmt: skip
        return lambda z: function(a(z))
    if kind in (3, 4):
        value = draw(st.sampled_from(NUMBERS))
        return lambda z: a(z) * value
    if kind == 5:
        value = draw(st.sampled_from([2.0, -4.0, 0.5, 3.0]))
        return lambda z: a(z) / value
    if kind == 6:
        value = draw(st.sampled_from(NUMBERS))
        return lambda z: a(z) + value
    b = draw(expressions(depth - 1))
    if kind in (7, 8):
        function = draw(st.sampled_from([jnp.maximum, jnp.minimum]))
        return lambda z: function(a(z), b(z))
    if kind in (9, 10):
        function = draw(st.sampled_from([jnp.add, jnp.subtract, jnp.multiply]))
        return lambda z: function(a(z), b(z))
    test = draw(st.sampled_from([jnp.greater, jnp.greater_equal, jnp.less, jnp.equal]))
    c = draw(expressions(max(depth - 2, 0)))
    if kind == 11:
        return lambda z: jnp.where(test(a(z), c(z)), z, b(z))
    if kind == 12:
        return lambda z: jnp.clip(a(z), -2.5, 7.0)
    return lambda z: test(a(z), b(z)).astype(z.dtype) * c(z)


def points(form):
    """Where a function could part from its description: near knots, far out, nearly at zero."""
    knots = [float(x) for x in (form.knots if form is not None else ())]
    near = [x + d for x in knots for d in (-1e-3, -1e-6, 1e-6, 1e-3)]
    between = [(a + b) / 2 for a, b in itertools.pairwise(sorted(knots))]
    powers = np.ldexp(1.0, np.arange(-40, 41, 4))
    dense = np.concatenate([np.linspace(-12, 12, 961), np.linspace(-120, 120, 97)])
    both = np.concatenate([powers, -powers, 1.37 * powers, -1.37 * powers, [0.0]])
    return np.unique(np.concatenate([near, between, both, dense + 1e-4]))


@settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(expressions())
def test_claims_about_random_functions_hold(function):
    with jax.enable_x64(True):
        found = found_of(function, np.float64)
        x = points(found.form)
        y = np.asarray(jnp.broadcast_to(function(jnp.asarray(x)), x.shape), np.float64)
    if found.form is not None:
        # Nothing is claimed within rounding of a knot, where comparisons round.
        ends = [float(knot) for knot in found.form.knots]
        clear = np.array([all(abs(p - k) > 1e-9 * (1 + abs(k)) for k in ends) for p in x])
        want = np.array([float(as_number(found.form(Fraction(p)))) for p in x])
        slack = 1e-10 * (1 + np.abs(x)) * 1e4 ** (not found.plain)
        assert (np.abs(want - y) <= slack + 1e-9 * np.abs(y))[clear].all()
    if found.two_slopes is not None:
        below, above = (float(as_number(slope)) for slope in found.two_slopes)
        want = np.where(x < 0, below, above) * x
        assert (np.abs(want - y) <= 1e-9 * np.abs(x) * max(1.0, abs(below), abs(above))).all()
    if found.trend is not None:
        steps = np.diff(y)
        slack = 1e-9 * (np.abs(y[1:]) + np.abs(y[:-1]) + 1e3)
        assert found.trend < 0 or (steps >= -slack).all()
        assert found.trend > 0 or (steps <= slack).all()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(expressions(), st.sampled_from([0.37, 3.0, 1.2e9]))
def test_homogeneous_functions_are(function, factor):
    """``f(ρ x) = ρ f(x)`` to rounding in float32, as the function runs, whatever its steps."""
    if found_of(function).two_slopes is None:
        return
    x = jnp.asarray(points(None), jnp.float32)
    one, other = function(x * factor), function(x) * jnp.float32(factor)
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-30)
