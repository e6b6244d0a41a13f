"""Parameters in Orbax, read and written in pieces of bounded size."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

CHUNK = 1 << 26
"""Bytes of a leaf that are one piece of a file."""
TOGETHER = 1
"""Gigabytes that are on their way at a time."""


def _checkpointer() -> ocp.Checkpointer:
    handler = ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=TOGETHER, restore_concurrent_gb=TOGETHER
    )
    return ocp.Checkpointer(handler)


def write(folder: Path, params: Any) -> None:
    """Writes a pytree; each process writes the shards that it holds."""
    chunked = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK), params)
    with _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(params, chunked), force=True)


def read(folder: Path, shapes: Any, sharding: Any = None) -> Any:
    """Reads a pytree; each process reads the shards that it will hold.

    Args:
      folder: where it was written.
      shapes: its leaves' shapes and dtypes.
      sharding: of every leaf; by default whole on the first device.
    """
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    how = jax.tree.map(lambda leaf: ocp.ArrayRestoreArgs(sharding=sharding), shapes)
    with _checkpointer() as checkpointer:
        return checkpointer.restore(
            folder.absolute(), args=ocp.args.PyTreeRestore(shapes, restore_args=how)
        )
