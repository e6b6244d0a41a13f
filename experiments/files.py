"""Files that survive being interrupted at any moment."""

import io
import os
import pathlib
import platform
from typing import Any

import jax
import numpy as np


def write(path: pathlib.Path, content: bytes) -> None:
    """Replaces a file's content: afterwards it is the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.draft")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_tree(path: pathlib.Path, tree: Any) -> None:
    """Stores a pytree's leaves."""
    buffer = io.BytesIO()
    np.savez(buffer, *map(np.asarray, jax.tree.leaves(tree)))
    write(path, buffer.getvalue())


def read_tree(path: pathlib.Path, like: Any) -> Any:
    """Returns the pytree stored at ``path``, which has the structure of ``like``.

    Raises:
      ValueError: if the number of leaves, a shape or a dtype differs.
    """
    expected, structure = jax.tree.flatten(like)
    with np.load(path) as file:
        leaves = [file[f"arr_{i}"] for i in range(len(file.files))]
    kinds = [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in expected]
    if kinds != [(leaf.shape, leaf.dtype) for leaf in leaves]:
        raise ValueError(f"{path} was written for another network or optimiser")
    return jax.tree.unflatten(structure, leaves)
