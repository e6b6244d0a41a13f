"""The safetensors format: eight bytes of length, a JSON header, then the arrays' bytes.

Written and read here, not by the safetensors package, because a header has to be held
against the manifest and the size of the file before anything is allocated, all on one
descriptor. Files are plain safetensors, which every reader of that format opens.
"""

import json
import math
from collections.abc import Iterator, Mapping
from io import BufferedReader
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.errors import StoreError

CODES = {
    "bfloat16": "BF16",
    "bool": "BOOL",
    "complex64": "C64",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "int8": "I8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "uint8": "U8",
}
LONGEST_HEADER = 100_000_000  # the limit of the safetensors package
CHUNK = 1 << 20


class Entry(NamedTuple):
    """Where an array lies, in bytes from the end of the header, and what it is."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Header(NamedTuple):
    """What a file says of itself: texts by name, arrays by name, where the bytes begin."""

    metadata: dict[str, str]
    entries: dict[str, Entry]
    begin: int


def layout(arrays: Mapping[str, np.ndarray]) -> dict[str, Entry]:
    """Places arrays one after the other, the widest dtypes first so that all are aligned."""
    entries, end = {}, 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array = arrays[name]
        start, end = end, end + array.nbytes
        entries[name] = Entry(str(array.dtype), array.shape, start, end)
    return entries


def blocks(arrays: Mapping[str, np.ndarray]) -> Iterator[memoryview]:
    """The arrays' bytes in the order of :func:`layout`."""
    for name in layout(arrays):
        yield _bytes(np.ascontiguousarray(arrays[name]))


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes arrays and texts; no array is copied."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, entry in layout(arrays).items():
        offsets = [entry.start, entry.end]
        header[name] = {
            "dtype": CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": offsets,
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for block in blocks(arrays):
        file.write(block)


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of an array; bfloat16 and its kin have no buffer of their own."""
    return array.reshape(-1).view(np.uint8).data


def read_header(file: BinaryIO, size: int) -> Header:
    """Reads the header of a file of so many bytes.

    Raises:
      StoreError: if it isn't a safetensors header that accounts for every byte.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, LONGEST_HEADER):
        raise StoreError("not a safetensors file, or cut short: its header runs past its end")
    table = parse(file.read(length), "header")
    if not isinstance(table, dict):
        raise StoreError("not a safetensors file: its header is no table")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise StoreError("header: __metadata__ isn't a table of texts")
    entries = {name: _entry(name, data) for name, data in table.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.start != end:
            raise StoreError(f"{name:.200}: begins at byte {entry.start}, expected {end}")
        end = entry.end
    if size != 8 + length + end:
        raise StoreError(f"the file has {size} bytes, its header tells of {8 + length + end}")
    return Header(metadata, entries, 8 + length)


def parse(text: bytes | str, where: str) -> Any:
    """Reads JSON as it was written: no key twice, no NaN.

    Raises:
      StoreError: if it isn't JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise StoreError(f"{where}: a key appears twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise StoreError(f"{where}: {constant} isn't JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except StoreError:
        raise
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not JSON: {error!s:.200}") from error


def _entry(name: str, data: Any) -> Entry:
    """Checks one line of the header by itself."""
    names = {code: dtype for dtype, code in CODES.items()}
    match data:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [start, end]} if (
            len(data) == 3
            and code in names
            and all(type(extent) is int and extent >= 0 for extent in (*shape, start, end))
        ):
            entry = Entry(names[code], tuple(shape), start, end)
            if end - start == math.prod(shape) * jnp.dtype(entry.dtype).itemsize:
                return entry
    raise StoreError(f"{name:.200}: the header's line doesn't make sense: {data!s:.200}")


def bytes_of(file: BinaryIO, header: Header) -> Iterator[bytes]:
    """The arrays' bytes in order, a little at a time."""
    file.seek(header.begin)
    while block := file.read(CHUNK):
        yield block


def read(file: BufferedReader, header: Header, name: str) -> np.ndarray:
    """Reads one array."""
    entry = header.entries[name]
    file.seek(header.begin + entry.start)
    array = np.empty(entry.shape, jnp.dtype(entry.dtype))
    if file.readinto(_bytes(array)) != array.nbytes:
        raise StoreError(f"{name:.200}: the file ends in the middle of it")
    return array
