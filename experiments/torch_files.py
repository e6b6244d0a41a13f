"""Arrays of files that PyTorch wrote, read without it and without running what they say."""

import collections
import io
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

KINDS = {"FloatStorage": np.float32, "HalfStorage": np.float16, "LongStorage": np.int64}
MAGIC = 0x1950A86A20F9469CFC6C
WORDS = struct.calcsize("q")


class View(NamedTuple):
    """A tensor: a part of a storage."""

    storage: str
    dtype: Any
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, data: bytes) -> np.ndarray:
        """Its array."""
        flat = np.frombuffer(data, self.dtype)[self.offset :]
        strides = tuple(flat.itemsize * s for s in self.strides)
        last = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if self.offset < 0 or min(self.strides, default=0) < 0 or last >= len(flat):
            raise ValueError(f"a tensor of shape {self.shape} isn't in its storage")
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides, writeable=False).copy()


class _Reader(pickle.Unpickler):
    """Knows tensors and ordered dicts, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: View(
                storage[0], storage[1], offset, tuple(shape), tuple(strides)
            )
        if module == "torch" and name in KINDS:
            return KINDS[name]
        raise pickle.UnpicklingError(f"the file asks for {module}.{name}; only tensors are read")

    def persistent_load(self, pid: Any) -> Any:
        kind, key = pid[1], pid[2]
        return key, np.dtype(kind)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a state dict by their names.

    The ``.pth`` file is of the format of today, a zip archive, or the one before.

    Raises:
      pickle.UnpicklingError: if it holds anything but tensors and ordered dicts.
      ValueError: if it is of neither format.
    """
    views, storage = (_zipped if zipfile.is_zipfile(path) else _plain)(path)
    return {name: v.of(storage(v)) for name, v in views.items() if isinstance(v, View)}


def _zipped(path: pathlib.Path) -> tuple[dict[str, Any], Callable[[View], bytes]]:
    archive = zipfile.ZipFile(path)
    index = next(name for name in archive.namelist() if name.endswith("data.pkl"))
    folder = index.removesuffix("data.pkl")
    views = _Reader(io.BytesIO(archive.read(index))).load()
    return views, lambda view: archive.read(f"{folder}data/{view.storage}")


def _plain(path: pathlib.Path) -> tuple[dict[str, Any], Callable[[View], bytes]]:
    with path.open("rb") as file:
        if _Reader(file).load() != MAGIC:
            raise ValueError(f"{path} isn't a file of PyTorch's")
        _Reader(file).load(), _Reader(file).load()  # version; sizes of its machine's integers
        views = _Reader(file).load()
        kinds = {v.storage: v.dtype for v in views.values() if isinstance(v, View)}
        found = {}
        for key in _Reader(file).load():
            (count,) = struct.unpack("<q", file.read(WORDS))
            found[key] = file.read(count * kinds[key].itemsize)
    return views, lambda view: found[view.storage]
