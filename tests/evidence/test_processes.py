"""Two processes, and eight devices with sharded parameters, give the results of one device."""

import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import linjax

SIZE, BATCHES = 48, 18  # more than are kept on the devices at once
ROOT = pathlib.Path(__file__).parents[2]


def apply(params, x):
    h = jax.nn.relu(x @ params["a"] + params["shift"])
    return jax.nn.relu(h @ params["b"]) @ params["c"]


def parameters():
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 16), "shift": (16,), "b": (16, 24), "c": (24, 3)}
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


def rows():
    return np.random.default_rng(1).normal(size=(SIZE * BATCHES, 6)).astype(np.float32)


def alone():
    params, x = parameters(), rows()
    net = linjax.trace(apply, params, x[:2])
    return net, params, linjax.collect(net, params, np.split(x, BATCHES))


def agree(stats, other):
    for a, b in zip(stats.seen, other.seen, strict=True):
        np.testing.assert_array_equal(a.count, b.count)
        np.testing.assert_array_equal(a.active, b.active)
    for a, b in zip(stats.kernels, other.kernels, strict=True):
        np.testing.assert_array_equal(a.count, b.count)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * np.abs(a).max(initial=1e-9))


def test_two_processes_give_the_results_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    files = [tmp_path / f"{index}.npz" for index in range(2)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.evidence.two_processes", str(index), address, str(file)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index, file in enumerate(files)
    ]  # fmt: skip
    for process in running:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    net, params, stats = alone()
    small = linjax.fold(params, stats, linjax.size(0.4))
    leaves, structure = jax.tree.flatten(stats)
    found = [list(np.load(file).values()) for file in files]
    for mine, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, theirs)  # both processes know the same
    agree(stats, jax.tree.unflatten(structure, found[0][: len(leaves)]))
    agree(stats, jax.tree.unflatten(structure, found[0][-len(leaves) :]))  # spread by blocks
    own = found[0][len(leaves) : -len(leaves)]
    folded = jax.tree.unflatten(jax.tree.structure(small), own)
    x = rows()[:50]
    np.testing.assert_allclose(net.apply(folded, x), net.apply(small, x), rtol=1e-3, atol=1e-3)


def test_parameters_may_be_sharded_as_well_as_rows():
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, virtual ones will do; there are {jax.device_count()}")
    net, params, stats = alone()
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("data", "model"))
    columns = NamedSharding(mesh, PartitionSpec(None, "model"))
    split = {k: jax.device_put(v, columns) if v.ndim == 2 and k != "c" else v
             for k, v in params.items()}  # fmt: skip
    other = linjax.collect(net, split, np.split(rows(), BATCHES), mesh=mesh)
    agree(stats, other)
    assert split["a"].sharding == columns
    small = linjax.fold(split, other, linjax.size(0.4))
    want = net.apply(linjax.fold(params, stats, linjax.size(0.4)), rows()[:50])
    np.testing.assert_allclose(net.apply(small, rows()[:50]), want, rtol=1e-3, atol=1e-3)
