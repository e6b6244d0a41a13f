"""Whether a program is about to be read: then it consists of the operations that were traced."""

import contextlib
import contextvars
from collections.abc import Iterator

_read = contextvars.ContextVar("read", default=False)


@contextlib.contextmanager
def as_traced() -> Iterator[None]:
    """Lets no operation stand for another: for whoever reads a program instead of running it."""
    token = _read.set(True)
    try:
        yield
    finally:
        _read.reset(token)


def is_as_traced() -> bool:
    """Whether that is asked for."""
    return _read.get()
