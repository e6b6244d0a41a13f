"""Whether a program is about to be read: then it consists of the operations that were traced.

Or whether it is run to see what counts: then gradients go on where training stops them.
"""

import contextlib
import contextvars
from collections.abc import Iterator

_read = contextvars.ContextVar("read", default=False)
_unstopped = contextvars.ContextVar("unstopped", default=False)


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


@contextlib.contextmanager
def unstopped() -> Iterator[None]:
    """Takes ``stop_gradient`` for what it is to values: for whoever asks what outputs depend on."""
    token = _unstopped.set(True)
    try:
        yield
    finally:
        _unstopped.reset(token)


def is_unstopped() -> bool:
    """Whether that is asked for."""
    return _unstopped.get()
