"""Streams, which several kernels add to and read: a measurement says if they are narrowed."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax

candidates = importlib.import_module("linjax.fold.candidates")


def inverted(p, x):
    """Inverted bottlenecks, whose projections are added without an activation: MobileNets."""

    def conv(x, kernel, groups=1):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )  # fmt: skip

    h = conv(x, p["stem"])
    for q in p["blocks"]:
        y = jax.nn.relu6(conv(h, q["expand"]))
        y = jax.nn.relu6(conv(y, q["depthwise"], y.shape[-1]))
        h = h + conv(y, q["project"])
    return h.mean((1, 2)) @ p["head"]


def residual(p, x):
    """Dense blocks that add to a stream behind an activation."""
    h = x @ p["stem"]
    for q in p["blocks"]:
        h = jax.nn.relu(h + jnp.tanh(h @ q["up"]) @ q["down"])
    return h @ p["head"]


def network(kind, seed):
    rng = np.random.default_rng(seed)

    def kernel(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.prod(shape[:-1]) ** 0.5, jnp.float32)

    if kind == "inverted":
        blocks = [
            {"expand": kernel(1, 1, 8, 24), "depthwise": 3 * kernel(3, 3, 1, 24),
             "project": kernel(1, 1, 24, 8)} for _ in range(3)
        ]  # fmt: skip
        params = {"stem": 2 * kernel(3, 3, 3, 8), "blocks": blocks, "head": kernel(8, 5)}
        return inverted, params, jnp.asarray(rng.normal(size=(150, 6, 6, 3)), jnp.float32)
    blocks = [{"up": kernel(12, 20), "down": kernel(20, 12)} for _ in range(3)]
    params = {"stem": 2 * kernel(9, 12), "blocks": blocks, "head": kernel(12, 5)}
    return residual, params, jnp.asarray(rng.normal(size=(600, 9)), jnp.float32)


@pytest.mark.parametrize("kind", ["inverted", "residual"])
@pytest.mark.parametrize("size", [0.8, 0.6])
def test_the_better_of_both_plans_is_refitted(kind, size, monkeypatch):
    apply, params, x = network(kind, 0)
    net = linjax.trace(apply, params, x[:1])
    batches = [x[: len(x) // 2], x[len(x) // 2 :]]
    known = linjax.frontier(params, linjax.collect(net, params, batches, metric="identity"))
    streams = [s for s in net.network.foldable if len(s.makers) > 1 and len(s.readers) > 1]
    assert len(streams) == 1
    seen = []
    fold = candidates.fold_in_order
    monkeypatch.setattr(
        candidates, "fold_in_order", lambda t, rows: seen.append(t) or fold(t, rows)
    )
    rule = linjax.size(size)
    small = linjax.compress(
        net, params, batches, rule, metric="identity", evidence=known, joint=False, progress=False
    )
    whole = linjax.size(size, least={streams[0].name: 1.0})
    plans = [known.plan(rule), known.plan(whole)]
    (task,) = seen
    assert task.plan in plans
    held = [x[4::5]]

    def error(params_):
        return linjax.compare(net, params, params_, held, metric="identity").error

    errors = [error(linjax.fold(params, known, each)) for each in (rule, whole)]
    assert task.plan == plans[int(np.argmin(errors))] or plans[0] == plans[1]
    assert error(small) <= 1.02 * min(errors)


def test_streams_with_linear_coordinates_fold_again():
    """What is added to results arrives where a stream is read behind them, and nowhere else.

    Blocks whose units are nearly always on: linear coordinates stand beside these, then beside
    the stream's; offsets travel along both from block to block.
    """
    rng = np.random.default_rng(1)

    def drawn(*shape):
        return jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)

    params = {"in": drawn(8, 16), "shift": jnp.full(16, 1.5), "out": drawn(16, 3)}
    for i in range(3):
        params[f"up{i}"], params[f"on{i}"] = drawn(16, 16), drawn(16) + 1.5
        params[f"down{i}"], params[f"bias{i}"] = drawn(16, 16) / 2, jnp.full(16, 0.75)

    def apply(p, x):
        h = jax.nn.relu(x @ p["in"] + p["shift"])
        for i in range(3):
            y = jax.nn.relu(h @ p[f"up{i}"] + p[f"on{i}"]) @ p[f"down{i}"]
            h = jax.nn.relu(h + y + p[f"bias{i}"])
        return h @ p["out"]

    x = jnp.asarray(rng.normal(size=(2000, 8)), jnp.float32)
    net = linjax.trace(apply, params, x[:1])
    small = linjax.fold(params, linjax.collect(net, params, [x]), linjax.size(0.7))
    assert {f"up{i}_linear" for i in range(3)} & set(small)
    again = linjax.fold(small, linjax.collect(net, small, [x]), linjax.size(0.49))
    assert {f"down{i}_linear" for i in range(3)} <= set(again)
    change = np.asarray(net.apply(again, x) - net.apply(small, x))
    assert (np.abs(change.mean(0)) < 0.1 * change.std(0)).all()
