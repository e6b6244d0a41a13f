"""The errors and warnings of linjax: each names a path and what was expected there."""

import contextlib
import sys
import warnings
from pathlib import Path

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
