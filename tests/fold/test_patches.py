"""Convolutions read what stays at all of their taps, and are refitted to all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import linjax

pytestmark = pytest.mark.filterwarnings("ignore::linjax.FoldWarning")

ROWS, SIDE, WIDTH = 600, 4, 8


def convolve(x, kernel, padding="VALID"):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )  # fmt: skip


def shifted(branches):
    """A channel is another one place further on: no channel at its own place tells it."""
    rng = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)

    params = {"in": normal(1, 2, 2, WIDTH - 1), "out": normal(1, 2, branches * WIDTH, 3)}
    faint = jnp.ones(WIDTH).at[0].set(0.3)  # goes first
    params["out"] = params["out"] * jnp.tile(faint, branches)[:, None]
    for n in range(branches):  # is read at the tap beside which the other is
        params["out"] = params["out"].at[0, 1, n * WIDTH].set(0.0)
    x = normal(ROWS, 1, SIDE + 2, 2)
    # Channel 0 at p is channel 1 at p + 1: its kernel has the same taps one place further on.
    wide = jnp.zeros((1, 3, 2, WIDTH)).at[:, :2, :, 1:].set(params["in"])
    params["in"] = wide.at[:, 1:, :, 0].set(params["in"][..., 0])
    params |= {f"in{n}": params["in"] * (1.0 + n) for n in range(1, branches)}

    def apply(params, x):
        names = ["in", *(f"in{n}" for n in range(1, branches))]
        hidden = [jax.nn.relu(convolve(x, params[name])) for name in names]
        return convolve(jnp.concatenate(hidden, axis=-1), params["out"])

    return apply, params, x


def folded(apply, params, x, rule):
    net = linjax.trace(apply, params, x[:2])
    stats = linjax.collect(net, params, [x[: ROWS // 2], x[ROWS // 2 :]], metric="identity")
    known = linjax.frontier(params, stats)
    return net, known.plan(rule), linjax.fold(params, known, rule)


@pytest.mark.parametrize(("branches", "size"), [(1, 0.91), (2, 0.9)])
def test_a_channel_is_made_up_for_by_its_neighbours_places(branches, size):
    apply, params, x = shifted(branches)
    net, plan, small = folded(apply, params, x, linjax.size(size))
    assert linjax.count(small) < linjax.count(params)
    measured = linjax.compare(net, params, small, [x]).error
    assert plan.error > 0.01  # place by place it says something of its own
    assert measured < 0.1 * plan.error


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_kernels_are_those_of_least_squares_on_all_taps(padding):
    """The oracle regresses on patches of what the folded network computes."""
    rng = np.random.default_rng(1)
    params = {
        "in": jnp.asarray(rng.normal(size=(3, 3, 2, WIDTH)) * 0.4, jnp.float32),
        "out": jnp.asarray(rng.normal(size=(3, 3, WIDTH, 3)), jnp.float32),
    }
    x = jnp.asarray(rng.normal(size=(ROWS, SIDE + 2, SIDE + 2, 2)), jnp.float32)

    def apply(params, x):
        hidden = jax.nn.relu(convolve(x, params["in"], padding))
        return convolve(hidden, params["out"], padding).mean((1, 2))

    _, _, small = folded(apply, params, x, linjax.size(0.6))
    assert small["out"].shape[2] < WIDTH
    names = [name for name in ("in", "in_linear") if name in small]
    hidden = [convolve(x, small[name], padding) for name in names]
    features = jnp.concatenate(
        [jax.nn.relu(hidden[0] + small.get("in_bias", 0.0)), *hidden[1:]], -1
    )
    wanted = convolve(jax.nn.relu(convolve(x, params["in"], padding)), params["out"], padding)
    edge = ((0, 0), (1, 1), (1, 1), (0, 0)) if padding == "SAME" else ((0, 0),) * 4
    padded = np.pad(np.asarray(features, np.float64), edge)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    rows = windows.reshape(-1, 9 * padded.shape[-1])
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    target = np.asarray(wanted.reshape(-1, 3), np.float64)
    best = np.linalg.lstsq(rows, target, rcond=None)[0]
    least = np.mean((target - rows @ best) ** 2)
    made = convolve(features, small["out"], padding) + small["out_bias"]
    assert np.mean((target - np.asarray(made.reshape(-1, 3))) ** 2) < 1.02 * least
