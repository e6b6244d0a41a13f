"""What the commands read beside saved networks: data, functions, sides of a box."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from linjax.errors import LinjaxError


def function(name: str) -> Callable[..., Any]:
    """Imports ``module:function``, from the working folder, too."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module can fail in any way while it is imported
        raise LinjaxError(
            f"--apply {name}: {type(error).__name__}: {error}; expected MODULE:FUNCTION"
        ) from error
    if not callable(found):
        raise LinjaxError(f"--apply {name}: a {type(found).__name__}; expected MODULE:FUNCTION")
    return found


def batches(path: str, size: int) -> list[tuple[np.ndarray, ...]]:
    """The rows of a file, so many at a time."""
    if size < 1:
        raise LinjaxError(f"--batch {size}: expected at least 1")
    arrays = rows(path)
    return [tuple(x[i : i + size] for x in arrays) for i in range(0, len(arrays[0]), size)]


def rows(path: str) -> tuple[np.ndarray, ...]:
    """The network's inputs: one array, or those of an archive in its order."""
    try:
        found = np.load(path, allow_pickle=False)
        arrays = tuple(found.values()) if hasattr(found, "files") else (found,)
    except (ValueError, EOFError) as error:
        raise LinjaxError(f"{path}: not an .npy or .npz file of numbers: {error}") from error
    if not arrays or not all(x.ndim for x in arrays) or len({len(x) for x in arrays}) != 1:
        raise LinjaxError(f"{path}: expected arrays with as many rows each")
    if not len(arrays[0]):
        raise LinjaxError(f"{path}: no rows")
    return arrays


def side(name: str, text: str) -> Any:
    """One side of a box: a number, or an array from a file."""
    try:
        return float(text)
    except ValueError:
        pass
    if not text.endswith(".npy"):
        raise LinjaxError(f"--{name} {text}: expected a number or an .npy file")
    try:
        return np.load(text, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise LinjaxError(f"--{name} {text}: not an .npy file of numbers: {error}") from error
