"""What others do: within the same budgets, and as plain NumPy does it on one layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from experiments.coverage import zoo
from linjax import baselines
from linjax.dims.run import Run
from tests.fold.networks import rows, traced

ALL = [
    baselines.magnitude,
    baselines.activity,
    baselines.pruned_and_refitted,
    baselines.truncated,
    baselines.truncated_whitened,
    baselines.energy_budgeted,
    baselines.error_bounded,
    baselines.clustered,
]


@pytest.fixture(scope="module")
def network():
    return traced((12, 48, 40, 5), count=1000, batch=250)


@pytest.mark.parametrize("rival", ALL, ids=lambda r: r.__name__)
@pytest.mark.parametrize("fraction", [0.7, 0.2])
def test_meets_the_budget(network, rival, fraction):
    net, params, batches, stats = network
    small = rival(params, stats, linjax.size(fraction))
    assert linjax.count(small) <= fraction * linjax.count(params)
    assert np.isfinite(jax.jit(net.apply)(small, batches[0])).all()


@pytest.mark.parametrize("rival", ALL, ids=lambda r: r.__name__)
def test_folding_is_nearer_to_the_original(network, rival):
    net, params, _, stats = network
    x = rows(500, 12, seed=1)

    def error(small):
        y, z = (jax.nn.log_softmax(net.apply(p, x)) for p in (params, small))
        return float(jnp.mean(jnp.sum(jnp.exp(y) * (y - z), -1)))

    rule = linjax.size(0.3)
    assert error(linjax.fold(params, stats, rule)) < error(rival(params, stats, rule))


def test_refit_changes_nothing_at_full_width(network):
    net, params, batches, stats = network
    small = baselines.pruned_and_refitted(params, stats, linjax.size(1.0))
    np.testing.assert_allclose(
        jax.jit(net.apply)(small, batches[0]), net.apply(params, batches[0]), rtol=1e-3, atol=1e-3
    )


def dense(p, x):
    return jax.nn.relu(x @ p["in"] + p["shift"]) @ p["out"]


def layer(p=10, m=24, q=3, count=400, seed=0):
    """A dense network, rows that are correlated, its evidence."""
    rng = np.random.default_rng(seed)
    params = {
        "in": jnp.asarray(rng.normal(size=(p, m)), jnp.float32),
        "shift": jnp.asarray(rng.normal(size=m), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(m, q)), jnp.float32),
    }
    x = jnp.asarray(rng.normal(size=(count, p)) @ rng.normal(size=(p, p)) + 1, jnp.float32)
    net = linjax.trace(dense, params, x[:2])
    return net, params, x, linjax.collect(net, params, [x])


@pytest.mark.parametrize("method", [baselines.truncated_whitened, baselines.energy_budgeted])
def test_whitened_factors_are_those_of_numpy(method):
    _, params, x, stats = layer()
    small = method(params, stats, linjax.size(0.8))
    kernel, found = np.asarray(params["in"], np.float64), small["in_down"] @ small["in"]
    covariance = np.cov(np.asarray(x, np.float64).T, bias=True)
    root = np.linalg.cholesky(covariance).T
    u, s, v = np.linalg.svd(root @ kernel)
    k = small["in"].shape[0]
    want = np.linalg.solve(root, u[:, :k] * s[:k]) @ v[:k]
    assert 0 < k < 10
    np.testing.assert_allclose(found, want, atol=2e-3)


def test_error_bounded_factors_need_no_data():
    _, params, _, stats = layer()
    small = baselines.error_bounded(params, stats, linjax.size(0.8))
    u, s, v = np.linalg.svd(np.asarray(params["in"], np.float64), full_matrices=False)
    k = small["in"].shape[0]
    np.testing.assert_allclose(small["in_down"] @ small["in"], u[:, :k] * s[:k] @ v[:k], atol=1e-4)


def test_clusters_of_twins_are_merged_without_loss():
    rng = np.random.default_rng(0)
    half, shift = rng.normal(size=(6, 8)), rng.normal(size=8)
    twins = rng.permutation(16)
    params = {
        "in": jnp.asarray(np.tile(half, 2)[:, twins], jnp.float32),
        "shift": jnp.asarray(np.tile(shift, 2)[twins], jnp.float32),
        "out": jnp.asarray(rng.normal(size=(16, 3)), jnp.float32),
    }
    x = jnp.asarray(rng.normal(size=(50, 6)), jnp.float32)
    net = linjax.trace(dense, params, x)
    small = baselines.clustered(params, linjax.collect(net, params, [x]), linjax.size(0.5))
    assert small["in"].shape == (6, 8)
    np.testing.assert_allclose(jax.jit(net.apply)(small, x), net.apply(params, x), atol=1e-4)


def test_modular_units_are_nystroem_s():
    net, params, x, stats = layer()
    small = baselines.modular(net, params, stats, [x], linjax.size(0.5))
    h = np.asarray(jax.nn.relu(x @ params["in"] + params["shift"]), np.float64)
    c = h.T @ h / len(h)
    lift = 1e-2 * np.trace(c) / len(c) * np.eye(len(c))
    k = small["in"].shape[1]
    kept = np.sort(np.argsort(-np.diag(np.linalg.solve(c + lift, c)))[:k])
    decode = np.linalg.solve((c + lift)[np.ix_(kept, kept)], c[kept])
    np.testing.assert_allclose(small["in"], params["in"][:, kept])
    np.testing.assert_allclose(small["out"], decode @ np.asarray(params["out"]), atol=1e-3)


def normed(p, x):
    h = x @ p["first"]
    h = (h - p["mean"]) * (p["scale"] * jax.lax.rsqrt(p["var"] + 1e-5)) + p["bias"]
    return jax.nn.relu(h) @ p["out"]


def test_recalibration_undoes_what_batch_norm_does_not_see(monkeypatch):
    rng = np.random.default_rng(0)

    def values(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    x = values(300, 5)
    params = {"first": values(5, 7), "scale": values(7), "bias": values(7), "out": values(7, 2)}
    h = x @ params["first"]
    params |= {"mean": h.mean(0), "var": h.var(0)}
    net = linjax.trace(normed, params, x[:2])
    other = params | {"first": 3 * params["first"]}
    found = baselines.recalibrated(net, other, [x[:100], x[100:]])
    np.testing.assert_allclose(found["mean"], 3 * h.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["var"], 9 * h.var(0), rtol=1e-4)
    np.testing.assert_allclose(jax.jit(net.apply)(found, x), net.apply(params, x), atol=1e-3)
    steps: list[str] = []
    step = Run.step
    monkeypatch.setattr(Run, "step", lambda run, op: (steps.append(op.name), step(run, op)))
    baselines.recalibrated(net, other, [x[:100], x[100:]])
    assert steps.count("dot_general") == 1  # what stands before a norm is computed once
    plain = layer()
    assert plain[1]["in"] is baselines.recalibrated(plain[0], plain[1], [plain[2]])["in"]


def residual(p, x):
    h = x @ p["embed"]
    for i in range(3):
        h = h + jnp.tanh(h @ p[f"up_{i}"]) @ p[f"down_{i}"]
    return h @ p["out"]


def test_a_block_that_adds_nothing_is_replaced_without_loss():
    rng = np.random.default_rng(0)
    shapes = {"embed": (5, 6), "out": (6, 3)}
    shapes |= {f"up_{i}": (6, 12) for i in range(3)} | {f"down_{i}": (12, 6) for i in range(3)}
    params = {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}
    params["down_1"] = jnp.zeros((12, 6))
    x = jnp.asarray(rng.normal(size=(200, 5)), jnp.float32)
    net = linjax.trace(residual, params, x[:2])
    stats = linjax.collect(net, params, [x])
    small = baselines.replaced(net, params, stats, [x], linjax.size(0.75))
    assert "up_1" not in small and "down_1" not in small and "up_2" in small
    np.testing.assert_allclose(jax.jit(net.apply)(small, x), net.apply(params, x), atol=1e-2)
    with pytest.raises(linjax.LinjaxError, match="size"):
        baselines.replaced(net, params, stats, [x], linjax.size(0.1))
    dense_net, dense_params, rows_, dense_stats = layer()
    with pytest.raises(linjax.LinjaxError, match="blocks"):
        baselines.replaced(dense_net, dense_params, dense_stats, [rows_], linjax.size(0.5))


@pytest.mark.parametrize("name", ["replaced", "modular", "sliced"])
def test_decoders_traced_on_one_row_are_made_smaller_by_others(name):
    """What turns queries and keys has no entries left where these are gone."""
    apply, params, (words,) = zoo.MODELS["stories260k" if name == "sliced" else "llama"].build()
    words = jnp.asarray(np.random.default_rng(0).integers(1, 60, (12, *words.shape[1:])))
    net, batches = linjax.trace(apply, params, words[:1]), [words[:8], words[8:]]
    if name == "sliced":
        other, small = baselines.sliced(net, params, batches, linjax.size(0.8))
    else:
        stats = linjax.collect(net, params, batches)
        other, small = net, getattr(baselines, name)(net, params, stats, batches, linjax.size(0.8))
    assert linjax.count(small) < linjax.count(params)
    outputs = jax.jit(other.apply)(small, words)
    assert outputs.shape == apply(params, words).shape and bool(jnp.isfinite(outputs).all())


def test_rounded_kernels_have_few_levels_and_bytes():
    _, params, _, _ = layer()
    small = baselines.rounded(params, 4)
    assert all(len(np.unique(column)) <= 15 for column in np.asarray(small["in"]).T)
    step = np.abs(np.asarray(params["in"])).max(0) / 7
    assert np.all(np.abs(np.asarray(small["in"] - params["in"])) <= step / 2 + 1e-6)
    assert small["shift"] is params["shift"]
    assert baselines.stored_bytes(params) == 4 * (240 + 24 + 72)
    assert baselines.stored_bytes(params, 4) == 120 + 4 * 24 + 4 * 24 + 36 + 4 * 3


def stream(p, x):
    h = x @ p["embed"]
    for i in range(2):
        v = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-5) * p[f"scale_{i}"]
        h = h + jax.nn.relu(v @ p[f"up_{i}"]) @ p[f"down_{i}"]
    v = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-5) * p["scale_1"]
    return v @ p["embed"].T  # a leaf that is used twice


def test_a_stream_of_few_directions_is_sliced_without_loss():
    rng = np.random.default_rng(0)

    def values(*shape):
        return rng.normal(size=shape)

    few = values(4, 12)  # whatever is written lies in four directions
    params = {"embed": values(9, 4) @ few, "scale_0": values(12), "scale_1": values(12)}
    for i in range(2):
        params |= {f"up_{i}": values(12, 10), f"down_{i}": values(10, 4) @ few}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    x = jnp.asarray(values(60, 9), jnp.float32)
    net = linjax.trace(stream, params, x[:2])
    other, small = baselines.sliced(net, params, [x[:30], x[30:]], linjax.size(0.5))
    width = small["first"]["embed"].shape[1]
    assert 4 <= width < 12 and linjax.count(small) <= 0.5 * linjax.count(params)
    np.testing.assert_allclose(
        jax.jit(other.apply)(small, x), net.apply(params, x), rtol=1e-3, atol=1e-2
    )
    plain = layer()
    with pytest.raises(linjax.LinjaxError, match="stream"):
        baselines.sliced(plain[0], plain[1], [plain[2]], linjax.size(0.5))
