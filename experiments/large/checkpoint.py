"""Parameters in Orbax, read and written in pieces of bounded size."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

CHUNK = 1 << 26
"""Bytes of a leaf that are one piece of a file."""
TOGETHER = {"save_concurrent_gb": 1, "restore_concurrent_gb": 1}
"""Gigabytes that are on their way at a time."""


def write(folder: Path, params: Any) -> None:
    """Writes a pytree."""
    chunked = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK), params)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**TOGETHER)) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(params, chunked), force=True)


def read(folder: Path, shapes: Any) -> Any:
    """Reads a pytree of these shapes and dtypes to the first device."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    how = jax.tree.map(lambda _: ocp.ArrayRestoreArgs(sharding=device), shapes)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**TOGETHER)) as checkpointer:
        given = ocp.args.PyTreeRestore(shapes, restore_args=how)
        return checkpointer.restore(folder.absolute(), args=given)
