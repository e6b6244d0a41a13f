"""Whether a program is about to be read: then it consists of the operations that were traced.

Or whether it is run to see what counts: then gradients go on where training stops them.
"""

import contextlib
import contextvars
from collections.abc import Iterator

_read = contextvars.ContextVar("read", default=False)
_unstopped = contextvars.ContextVar("unstopped", default=False)


@contextlib.contextmanager
def _asked(what: contextvars.ContextVar[bool]) -> Iterator[None]:
    token = what.set(True)
    try:
        yield
    finally:
        what.reset(token)


def as_traced() -> contextlib.AbstractContextManager[None]:
    """Lets no operation stand for another: for whoever reads a program instead of running it."""
    return _asked(_read)


def is_as_traced() -> bool:
    """Whether that is asked for."""
    return _read.get()


def unstopped() -> contextlib.AbstractContextManager[None]:
    """Takes ``stop_gradient`` for what it is to values: for whoever asks what outputs depend on."""
    return _asked(_unstopped)


def is_unstopped() -> bool:
    """Whether that is asked for."""
    return _unstopped.get()
