"""Meshes as `jax.make_mesh` makes them, whose axes say how everything is sharded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import linjax

RNG = np.random.default_rng(0)
SHAPES = {"a": (8, 24), "shift": (24,), "c": (24, 3)}
PARAMS = {n: jnp.asarray(RNG.normal(size=s) / s[0] ** 0.5, jnp.float32) for n, s in SHAPES.items()}
X = jnp.asarray(RNG.normal(size=(256, 8)), jnp.float32)


def apply(p, x):
    return jax.nn.relu(x @ p["a"] + p["shift"]) @ p["c"]


@pytest.mark.skipif(jax.device_count() < 2, reason="one device alone")
def test_evidence_and_folds_are_those_of_one_device():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    rows = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
    params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
    net = linjax.trace(apply, PARAMS, X[:1])
    alone = linjax.collect(net, PARAMS, [X], metric="identity")
    small = linjax.fold(PARAMS, alone, linjax.size(0.5))
    error = linjax.compare(net, PARAMS, small, [X], metric="identity").error
    for own, x, over in ((PARAMS, rows, None), (params, rows, mesh), (params, X, mesh)):
        stats = linjax.collect(net, own, [x], metric="identity", mesh=over)
        np.testing.assert_array_equal(stats.units["a"].active, alone.units["a"].active)
        folded = linjax.fold(own, stats, linjax.size(0.5))
        found = linjax.compare(net, own, folded, [x], metric="identity").error
        np.testing.assert_allclose(found, error, rtol=1e-2)
    compressed = linjax.compress(net, params, [rows], linjax.size(0.5), metric="identity")
    assert linjax.count(compressed) <= 0.5 * linjax.count(PARAMS)
    assert linjax.compare(net, params, compressed, [rows], metric="identity").error < 2 * error
    better = linjax.recover(net, params, small, [rows], steps=20)
    assert linjax.count(better) == linjax.count(small)


@pytest.mark.skipif(jax.device_count() < 2, reason="one device alone")
def test_within_set_mesh_arrays_stay_whole_and_sharded_ones_serve_outside():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    rows = jax.device_put(X, NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        net = linjax.trace(apply, PARAMS, X[:1])
        inside = linjax.collect(net, PARAMS, [X], metric="identity")
        with pytest.raises(linjax.LinjaxError, match=r"outside of jax\.set_mesh"):
            linjax.collect(net, PARAMS, [rows], metric="identity")
    outside = linjax.collect(net, PARAMS, [rows], metric="identity")
    np.testing.assert_array_equal(inside.units["a"].active, outside.units["a"].active)


@pytest.mark.skipif(jax.device_count() < 2, reason="one device alone")
def test_folded_networks_run_in_a_shard_map():
    """Rows vary over its axis, parameters don't."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    whole, rows = PartitionSpec(), PartitionSpec("data")
    net = linjax.trace(apply, PARAMS, X[:1])
    small = linjax.fold(PARAMS, linjax.collect(net, PARAMS, [X]), linjax.size(0.3))
    run = jax.shard_map(net.apply, mesh=mesh, in_specs=(whole, rows), out_specs=rows)
    for params in (PARAMS, small):
        for own in (run, jax.jit(run)):
            np.testing.assert_allclose(own(params, X), net.apply(params, X), atol=1e-5)

    def slope(params, x):  # that of parameters that don't vary is summed over devices
        return jax.grad(lambda p: jnp.mean(net.apply(p, x) ** 2) / 2)(params)

    found = jax.shard_map(slope, mesh=mesh, in_specs=(whole, rows), out_specs=whole)(small, X)
    alone = jax.grad(lambda p: jnp.mean(net.apply(p, X) ** 2))(small)
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-4)
