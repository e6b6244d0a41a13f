"""Second moments whose rows lie on several devices: the same, and less on each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import linjax
from linjax.evidence import moments, sensitivity
from linjax.evidence.spreading import spread_over

RNG = np.random.default_rng(5)
PARAMS = {
    "a": jnp.asarray(RNG.normal(size=(5, 64)), jnp.float32),
    "b": jnp.asarray(RNG.normal(size=(64, 18)) / 8, jnp.float32),  # 36 coordinates, of 4 devices
    "c": jnp.asarray(RNG.normal(size=(18, 2)), jnp.float32),
}
ROWS = RNG.normal(size=(80, 5)).astype(np.float32)

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices, virtual ones do")


def apply(params, x):
    return jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["b"]) @ params["c"]


def meshes():
    devices = np.array(jax.devices()[:8])
    for shape, names in (
        ((8,), ("data",)), ((2, 4), ("data", "model")), ((4, 2), ("model", "data")),
        ((8,), ("model",)), ((2, 2, 2), ("replica", "data", "model")),
    ):  # fmt: skip
        yield Mesh(devices.reshape(shape), names)


@pytest.mark.quick(5)
@pytest.mark.parametrize("mesh", meshes(), ids=lambda m: "x".join(m.axis_names))
@pytest.mark.parametrize("masked", [False, True])
def test_any_mesh_gives_the_evidence_of_one_device(mesh, masked):
    net = linjax.trace(apply, PARAMS, ROWS[:2])
    batches = [ROWS[:32], ROWS[32:64], ROWS[64:77]]  # the last one doesn't divide
    weigh = (lambda x: np.asarray(x[:, 0]) > -1) if masked else None
    one, spread = (
        linjax.collect(net, PARAMS, batches, weights=weigh, mesh=m, metric="identity")
        for m in (None, mesh)
    )
    for a, b in zip(one.seen, spread.seen, strict=True):
        np.testing.assert_array_equal(a.count, b.count)
        np.testing.assert_array_equal(a.active, b.active)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(spread), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6 * np.abs(a).max(initial=1e-9))
    rule = linjax.size(0.4)
    small = [net.apply(linjax.fold(PARAMS, stats, rule), ROWS) for stats in (one, spread)]
    np.testing.assert_allclose(*small, rtol=1e-3, atol=1e-3)


def test_each_device_takes_its_part():
    """XLA's account for one device: an M-th of the entries, whatever is summed over rows."""
    width, devices = 512, np.array(jax.devices()[:8])
    params = {"a": jnp.ones((5, width)), "b": jnp.ones((width, 2))}
    x = jnp.ones((64, 5))
    net = linjax.trace(apply_one, params, x[:2])
    flat = net.network.flatten(params)
    network = net.network_for(flat, (x,))
    point = ((0, -1),)
    taken = []
    for model in (1, 2, 4, 8):
        mesh = Mesh(devices.reshape(8 // model, model), ("data", "model"))
        spread, whole = spread_over(mesh), NamedSharding(mesh, PartitionSpec())
        rows = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        own = {path: jax.device_put(leaf, whole) for path, leaf in flat.items()}
        seed, start = (0, 0), np.zeros(1, np.int32)
        programs = (
            moments.batch_sums.lower(
                network, own, [rows], None, True, None, point, start, spread=spread
            ),
            sensitivity.metric_sums.lower(
                network, own, [rows], seed, "identity", None, None, 8, point, start, spread
            ),
        )
        memory = [program.compile().memory_analysis() for program in programs]
        entries = [(2 * width) ** 2 // model, width**2 // model]
        for found, size in zip(memory, entries, strict=True):
            assert 4 * size <= found.output_size_in_bytes < 4 * size + 60_000
        taken.append(sum(found.output_size_in_bytes for found in memory))
    print("bytes of a device with rows over 1, 2, 4, 8:", taken)
    assert taken[0] > 7 * taken[3]


def apply_one(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]
