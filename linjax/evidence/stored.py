"""Arrays that are too large for the memory: in a file, and read part by part."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from linjax.errors import EvidenceError

AT_ONCE = 1 << 26
"""Bytes of a large array that are worked on at a time."""
SMALL = 1 << 20
"""Bytes up to which an array isn't worth a file."""


class Stored:
    """An array in a file, of which no more is read than what is taken.

    ``stored[index]`` is an array of NumPy's, ``np.asarray(stored)`` all of it. Nothing stays
    mapped, so that what was read doesn't count as memory in use.

    Attributes:
      path: the file, in NumPy's format.
      shape: its shape, or that of the corner that is seen.
      dtype: its dtype.
      done: what is done to entries when they are read: functions, and what they take beside.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: Any, done: tuple[Any, ...] = ()
    ) -> None:
        self.path, self.shape, self.dtype, self.done = path, shape, np.dtype(dtype), done

    @classmethod
    def zeros(cls, path: Path, shape: tuple[int, ...]) -> "Stored":
        """Makes the file; zeros take no space in it."""
        np.lib.format.open_memmap(path, "w+", np.float64, shape)
        return cls(path, shape, np.float64)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return int(np.prod(self.shape))

    def corner(self, width: int) -> "Stored":
        """The first entries along the last two axes."""
        return Stored(self.path, (*self.shape[:-2], width, width), self.dtype, self.done)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        value = np.load(self.path, mmap_mode="r")[tuple(map(slice, self.shape))][index]
        for function, other in self.done:
            value = function(value, np.broadcast_to(other, self.shape)[index])
        return np.array(value)

    def __setitem__(self, index: Any, value: Any) -> None:
        np.load(self.path, mmap_mode="r+")[index] = value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(self.dtype if dtype is None else dtype, copy=False)

    def __truediv__(self, other: Any) -> "Stored":
        return Stored(self.path, self.shape, self.dtype, (*self.done, (np.divide, other)))

    def __mul__(self, other: Any) -> "Stored":
        return Stored(self.path, self.shape, self.dtype, (*self.done, (np.multiply, other)))

    __rmul__ = __mul__

    def __add__(self, other: Any) -> np.ndarray:
        return np.asarray(self) + np.asarray(other)

    def __repr__(self) -> str:
        return f"Stored({self.path}, {self.shape})"


def steps(count: int, each: int) -> list[slice]:
    """Runs of so many things that together take no more than is worked on at a time.

    >>> steps(5, AT_ONCE // 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    together = max(AT_ONCE // max(each, 1), 1)
    return [slice(n, min(n + together, count)) for n in range(0, count, together)]


def zeros(folder: Path | None, name: str, shape: tuple[int, ...]) -> Any:
    """An array of zeros to be filled: in memory, or in a file of a folder if it isn't small."""
    if folder is None or 8 * np.prod(shape) <= SMALL:
        return np.zeros(shape)
    return Stored.zeros(folder / f"{name}.npy", shape)


def opened(folder: str | os.PathLike[str] | None) -> Path | None:
    """Makes a folder for evidence.

    Raises:
      EvidenceError: if something is in it already.
    """
    if folder is None:
        return None
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise EvidenceError(f"{path}: isn't empty; evidence needs a folder of its own")
    return path.absolute()
