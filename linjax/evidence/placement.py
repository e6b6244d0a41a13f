"""Where parameters and batches are put: on one device, on a mesh, on several processes'."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linjax.errors import EvidenceError
from linjax.evidence.spreading import spread_over
from linjax.program.placed import automatic, placed

Array = Any


def place(params: Any, mesh: Mesh | None) -> Any:
    """Puts parameters on a mesh: whole on every device, but for leaves that are on it already.

    Those stay as they are sharded, so that no device has to hold what it can't.
    """
    params = automatic(params)
    if mesh is None:
        return params
    whole, devices = NamedSharding(mesh, PartitionSpec()), set(mesh.devices.flat)

    def put(leaf: Any) -> Any:
        there = isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices
        return leaf if there else jax.device_put(leaf, whole)

    return jax.tree.map(put, params)


def spread(inputs: tuple[Any, ...], rows: int, index: int, mesh: Mesh | None) -> tuple[Any, ...]:
    """Spreads a batch over a mesh along its first axis, where it divides evenly.

    Devices along an axis "model" get the same rows.

    In a mesh over several processes each of them gives its own rows, and they must divide.

    Raises:
      EvidenceError: if they don't.
    """
    if mesh is None:
        return jax.tree.map(placed, inputs)
    own = spread_over(mesh)
    assert own is not None
    sharded = NamedSharding(mesh, PartitionSpec(own.rows or None))
    if mesh.is_multi_process:
        local = len(mesh.local_devices) * own.parts // mesh.size
        if rows % local:
            raise EvidenceError(
                f"batch {index}: {rows} rows don't divide over this process's {local} devices of "
                "the mesh; in several processes every batch has to"
            )
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharded, np.asarray(x)), inputs
        )
    even = rows % own.parts == 0
    return jax.device_put(inputs, sharded if even else NamedSharding(mesh, PartitionSpec()))


def agree(count: int, mesh: Mesh | None) -> None:
    """Checks that all processes of a mesh bring as many batches.

    Raises:
      EvidenceError: if they don't: some would wait for the others for ever.
    """
    if mesh is None or not mesh.is_multi_process:
        return
    counts = np.asarray(multihost_utils.process_allgather(np.int32(count))).tolist()
    if len(set(counts)) > 1:
        raise EvidenceError(f"the processes bring {counts} batches: every one has to bring as many")


def fetch(tree: Any, mesh: Mesh | None) -> Any:
    """Copies arrays to the host, whole in every process."""
    if mesh is not None and mesh.is_multi_process:
        whole = NamedSharding(mesh, PartitionSpec())
        tree = jax.jit(lambda leaves: leaves, out_shardings=whole)(tree)
    return jax.tree.map(np.asarray, tree)


def assembled(array: Any) -> np.ndarray:
    """An array that this process holds all parts of, on the host."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return np.asarray(array)
    found = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        found[shard.index] = np.asarray(shard.data)
    return found
