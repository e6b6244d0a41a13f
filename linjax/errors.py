"""The errors and warnings of linjax: each names a path and what was expected there."""

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

_INSIDE = (str(Path(__file__).parent), contextlib.__file__)  # functions of ours, and around them


class LinjaxError(ValueError):
    """Something that was given to linjax doesn't fit; nothing has been changed."""


class StructureError(LinjaxError):
    """A parameter pytree, an input or evidence doesn't match the traced network."""


class EvidenceError(LinjaxError):
    """Evidence can't be gathered or used: empty, not finite, unsound, or missing a part."""


class StoreError(LinjaxError):
    """A file can't be saved or loaded: it is damaged, hostile, newer, or not of linjax."""


class FoldWarning(UserWarning):
    """Something was left as it was, or is less than what was asked for; the reason is given."""


def warn(message: str, category: type[Warning] = FoldWarning) -> None:
    """Warns of the line that called linjax, however deep inside of it that is noticed."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def renamed(**now: str) -> Callable[[F], F]:
    """Takes arguments by the names that they had, too, with a ``DeprecationWarning``.

    Args:
      **now: by the old name the one that it has now.
    """

    def wrap(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            for was in now.keys() & given.keys():
                warn(f"{function.__name__}({was}=…) is now {now[was]}=", DeprecationWarning)
                given[now[was]] = given.pop(was)
            return function(*args, **given)

        return cast(F, call)

    return wrap
