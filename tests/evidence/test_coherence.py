"""Errors of an example's places that go along with each other cost more than others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.evidence import coherence
from linjax.evidence.places import places

ROWS, PLACES, WIDTH = 60, 16, 8
RNG = np.random.default_rng(0)
PARAMS = {
    "in": jnp.asarray(RNG.normal(size=(5, WIDTH)), jnp.float32),
    "out": jnp.asarray(RNG.normal(size=(WIDTH, 3)), jnp.float32),
}


def pooled(p, x):
    return jnp.mean(jax.nn.softplus(x @ p["in"]) @ p["out"], axis=1)


def by_place(p, x):
    return jax.nn.softplus(x @ p["in"]) @ p["out"]


def alternating(p, x):
    signs = (-1.0) ** np.arange(PLACES)
    return jnp.mean(signs[:, None] * (jax.nn.softplus(x @ p["in"]) @ p["out"]), axis=1)


ALIKE = np.repeat(RNG.normal(size=(ROWS, 1, 5)), PLACES, axis=1).astype(np.float32)
APART = RNG.normal(size=(ROWS, PLACES, 5)).astype(np.float32)


def found(function, x, params=PARAMS):
    net = linjax.trace(function, params, x[:1])
    flat = net.network.flatten(params)
    parts = [[jnp.asarray(x[n::2])] for n in range(2)]
    network = net.network_for(flat, tuple(parts[0]))
    times = coherence.coherences(network, flat, parts, "identity")
    return {places(network)[n].name: value for n, value in times.items()}


@pytest.mark.parametrize(
    "function, x, low, high",
    [
        (pooled, ALIKE, PLACES * 0.999, PLACES * 1.001),
        (pooled, APART, 0.7, 1.4),
        (by_place, ALIKE, 0.7, 1.4),
        (by_place, APART, 0.7, 1.4),
        (alternating, ALIKE, 0.0, coherence.BOUNDS[0]),
    ],
)
def test_places_add_up_as_they_go_along(function, x, low, high):
    assert low <= found(function, x)["in"] <= high


def test_one_place_an_example_needs_nothing():
    assert not found(lambda p, x: jax.nn.softplus(x @ p["in"]) @ p["out"], APART[:, 0])


@pytest.mark.parametrize("first", [False, True])
def test_positions_may_come_first(first):
    """Samples are told by rows, wherever these stand."""

    def turned(p, x):
        h = jax.nn.softplus(jnp.swapaxes(x, 0, 1) @ p["in"]) if first else jax.nn.softplus(
            x @ p["in"])  # fmt: skip
        return jnp.mean(h @ p["out"], axis=0 if first else 1)

    assert found(turned, ALIKE)["in"] == pytest.approx(PLACES, rel=1e-3)


def convolved(p, x):
    for n in ("a", "b"):
        x = jax.lax.conv_general_dilated(x, p[n], (1, 1), "SAME",
                                         dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
        x = jax.nn.relu(x)
    return x.mean((1, 2)) @ p["out"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("smooth", [False, True])
def test_errors_are_what_is_predicted(seed, smooth):
    """Of images that are noise, and of some that hardly change from place to place."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 3, 3, 12), "b": (3, 3, 12, 12), "out": (12, 4)}
    params = {k: jnp.asarray(rng.normal(size=s) / np.sqrt(np.prod(s[:-1])), jnp.float32)
              for k, s in shapes.items()}  # fmt: skip
    x = rng.normal(size=(400, 2, 2, 3) if smooth else (400, 10, 10, 3))
    x = jax.image.resize(x, (400, 10, 10, 3), "linear").astype(jnp.float32)
    net = linjax.trace(convolved, params, x[:1])
    stats = linjax.collect(net, params, [x[:100], x[100:200]])
    small, report = linjax.fold_and_report(params, stats, linjax.size(0.6))
    measured = linjax.compare(net, params, small, [x[200:]]).error
    assert measured / 1.6 < report.predicted < 1.6 * measured


@pytest.mark.parametrize("rows", [8, 20, 60])
def test_few_rows_say_what_many_do(rows):
    """Of few rows with many places, the axes of these rows hold what their places share."""
    rng = np.random.default_rng(1)
    params = {"in": jnp.asarray(rng.normal(size=(24, 48)), jnp.float32),
              "out": jnp.asarray(rng.normal(size=(48, 3)), jnp.float32)}  # fmt: skip
    alike = np.repeat(rng.normal(size=(rows, 1, 24)), PLACES, axis=1)
    x = alike + rng.normal(size=(rows, PLACES, 24))  # half of what varies is a row's
    assert PLACES / 4 < found(pooled, x.astype(np.float32), params)["in"] < 0.8 * PLACES
