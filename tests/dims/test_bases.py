"""Which dimensions may change their basis: told apart by changing it by hand."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import linjax
from linjax.dims.sites import Form
from tests.arrays import placed

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")
relu = jax.nn.relu
ROWS, WIDTH = 384, 6
SHAPES = {"a": (6, 12), "c": (12, WIDTH), "bias": (WIDTH,), "other": (WIDTH,), "e": (WIDTH, 3)}


def parameters() -> dict:
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=s) / s[0] ** 0.5 for name, s in SHAPES.items()}
    params = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in drawn.items()}
    return params | {"one": jnp.float32(2.0)}


X = placed(np.random.default_rng(1).normal(size=(ROWS, 6)))


def beside(h, more):
    return jnp.concatenate([h[:, None], jnp.broadcast_to(more, (len(h), 1, WIDTH))], 1)


def padded(h, value):
    return jnp.pad(h[:, None], ((0, 0), (1, 1), (0, 0)), constant_values=value)


def summed(h, start):
    first = jnp.broadcast_to(jnp.asarray(start, h.dtype), h.shape)
    return lax.scan(lambda c, _: (c + h, None), first, None, length=2)[0]


def back(h, dtype):
    return h.astype(dtype).astype(h.dtype)


# What is done to h = relu(x a) c + bias before the kernel e reads it.

ANY: dict[str, Callable] = {
    "nothing": lambda p, x, h: h,
    "another bias": lambda p, x, h: 2 * h - p["other"],
    "times a parameter": lambda p, x, h: h * p["one"],
    "times a column of the input": lambda p, x, h: h * x[:, :1],
    "divided by one": lambda p, x, h: h / (1 + x[:, :1] ** 2),
    "divided by the largest input": lambda p, x, h: h / (1 + x.max()),
    "plus zero": lambda p, x, h: h + 0.0,
    "zero where masked": lambda p, x, h: jnp.where(jnp.arange(len(h))[:, None] % 2, h, 0.0),
    "behind a learned token": lambda p, x, h: beside(h, p["other"]),
    "behind zeros": lambda p, x, h: beside(h, 0.0),
    "padded with zeros": lambda p, x, h: padded(h, 0.0),
    "put into zeros": lambda p, x, h: jnp.zeros((len(h), 2, WIDTH)).at[:, 1].set(h),
    "summed from zero on": lambda p, x, h: summed(h, 0.0),
    "stacked": lambda p, x, h: jnp.stack([h, jnp.zeros_like(h), -h], 1),
    "mean apart": lambda p, x, h: h - h.mean(0),
}
NONE: dict[str, Callable] = {
    "plus a number": lambda p, x, h: h + 2.0,
    "plus a parameter": lambda p, x, h: h + p["one"],
    "minus from a parameter": lambda p, x, h: p["one"] - h,
    "plus a column of the input": lambda p, x, h: h + 3 * x[:, :1],
    "plus its place": lambda p, x, h: h[:, None] + jnp.asarray([1.0, 2.0])[None, :, None],
    "a number where masked": lambda p, x, h: jnp.where(jnp.arange(len(h))[:, None] % 2, h, 2.0),
    "a divisor": lambda p, x, h: x[:, :1] / (h**2 + 1),
    "a divisor of one": lambda p, x, h: x[:, :1] / (9 + h),
    "behind ones": lambda p, x, h: beside(h, 1.0),
    "behind a constant": lambda p, x, h: beside(h, jnp.arange(6.0)),
    "behind a parameter": lambda p, x, h: beside(h, p["one"]),
    "padded with ones": lambda p, x, h: padded(h, 1.0),
    "put into ones": lambda p, x, h: jnp.ones((len(h), 2, WIDTH)).at[:, 1].set(h),
    "updates of ones": lambda p, x, h: lax.dynamic_update_slice(
        jnp.ones((len(h), 2, WIDTH)), h[:, None], (0, 1, 0)
    ),
    "summed from one on": lambda p, x, h: summed(h, 1.0),
    "stacked with ones": lambda p, x, h: jnp.stack([h, jnp.ones_like(h)], 1),
    "plus one, again and again": lambda p, x, h: lax.scan(
        lambda c, _: (c + 1.0, None), h, None, length=2
    )[0],
    "whole numbers": lambda p, x, h: back(8 * h, jnp.int8),
    "eight bits": lambda p, x, h: back(h, jnp.float8_e4m3fn),
    "three bits": lambda p, x, h: lax.reduce_precision(h, 8, 3),
}


def network(way: Callable) -> Callable:
    def apply(p, x):
        h = relu(x @ p["a"]) @ p["c"] + p["bias"]
        return way(p, x, h) @ p["e"]

    return apply


def cost(net: linjax.Net, params: dict, stats: linjax.Stats, share: float) -> tuple[float, float]:
    """The relative output error of a fold, measured and predicted."""
    small, report = linjax.fold_and_report(params, stats, linjax.size(share))
    y, z = jax.jit(net.apply)(params, X), jax.jit(net.apply)(small, X)
    y, z = np.asarray(y, np.float64), np.asarray(z, np.float64)
    return float(np.linalg.norm(z - y) / np.linalg.norm(y - y.mean(0))), report.predicted


def turned(params: dict, basis: np.ndarray) -> dict:
    """The parameters with the coordinates of h in another basis."""
    made = {name: params[name] @ basis for name in ("c", "bias", "other")}
    return params | made | {"e": basis.T @ params["e"]}


def changes(way: Callable) -> float:
    """How much of the outputs changes with the basis."""
    params, apply = parameters(), network(way)
    basis = np.linalg.qr(np.random.default_rng(2).normal(size=(WIDTH, WIDTH)))[0]
    y, z = jax.jit(apply)(params, X), apply(turned(params, jnp.asarray(basis, jnp.float32)), X)
    y, z = np.asarray(y, np.float64), np.asarray(z, np.float64)
    return float(np.linalg.norm(z - y) / np.linalg.norm(y))


@pytest.mark.parametrize("name", [*ANY, *NONE])
def test_a_dimension_is_straight_if_and_only_if_any_basis_will_do(name):
    way = (ANY | NONE)[name]
    net = linjax.trace(network(way), parameters(), X)
    straight = [s.form is Form.STRAIGHT for s in net.network.foldable if s.width == WIDTH]
    assert (changes(way) < 1e-4) == (name in ANY)
    assert straight == [name in ANY]


@pytest.mark.quick(12)
@pytest.mark.parametrize("name", [*ANY, *NONE])
def test_folds_cost_what_was_predicted(name):
    params, apply = parameters(), network((ANY | NONE)[name])
    net = linjax.trace(apply, params, X)
    stats = linjax.collect(net, params, [X], metric="identity")
    for share in (0.85, 0.8):
        error, predicted = cost(net, params, stats, share)
        assert error <= 5 * predicted + 0.01


PASSED: dict[str, Callable] = {
    "plus a column of the input": lambda p, x: relu(x @ p["a"]) + 3 * x[:, :1],
    "plus its place": lambda p, x: relu((x @ p["a"])[:, None] + jnp.asarray([1.0, 2.0])[:, None]),
    "shifted, then scaled": lambda p, x: relu(x @ p["a"] + 2.0) * x[:, :1],
    "behind a parameter": lambda p, x: relu(x @ p["a"]) + p["one"] * x[:, 1:2],
}


@pytest.mark.parametrize("name", PASSED)
def test_linear_coordinates_pass_what_every_coordinate_gets(name):
    """Many linear ones are chosen where units are almost always on."""
    params = parameters() | {"a": jnp.asarray(np.random.default_rng(3).normal(size=(6, 24)))}
    params["c"] = jnp.asarray(np.random.default_rng(4).normal(size=(24, 3)) / 5)

    def apply(p, x):
        return PASSED[name](p, x) @ p["c"]

    net = linjax.trace(apply, params, X)
    stats = linjax.collect(net, params, [X], metric="identity")
    for share in (0.8, 0.5):
        error, predicted = cost(net, params, stats, share)
        assert error <= 3 * predicted + 0.01
