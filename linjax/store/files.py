"""Opening a file that may be anything, and replacing one as a whole."""

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from linjax.errors import StoreError

# Opening a pipe would wait for its writer; a link leads to where nobody looked.
_READ = os.O_RDONLY | sum(
    getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def place(path: str | os.PathLike[str]) -> Path:
    """Returns a path that the operating system understands.

    Raises:
      StoreError: if it holds a null byte, or is no path at all.
    """
    if not isinstance(path, str | os.PathLike):
        raise StoreError(f"path: a {type(path).__name__}, expected a string or a path")
    if "\0" in os.fspath(path):
        raise StoreError(f"{os.fspath(path)!r}: a path with a null byte")
    return Path(path)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Opens a regular file for reading; gives it and its size.

    Raises:
      StoreError: if it can't be read, or is a symbolic link, a folder, a pipe or a device.
    """
    with _explained(path):
        if path.is_symlink():
            raise StoreError(f"{path}: a symbolic link; give the path of the file it leads to")
        descriptor = os.open(path, _READ)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StoreError(f"{path}: not a regular file; expected one of linjax.save")
            yield file, status.st_size


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that at every moment ``path`` is the old one or the new one, whole.

    Raises:
      StoreError: if it can't be written; the old file is left as it was.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with _explained(path):
        try:
            with os.fdopen(os.open(beside, _NEW, 0o666), "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes a renaming last through a power cut, where folders can be opened at all."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error
