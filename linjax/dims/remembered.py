"""What is worked out once for every network, and forgotten with it."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from linjax.dims.network import Network

Result = TypeVar("Result")


def remembered(function: Callable[..., Result]) -> Callable[..., Result]:
    """Keeps a function's results for as long as the network, its first argument, is there."""
    known: weakref.WeakKeyDictionary[Network, dict[Any, Result]] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def found(network: Network, *arguments: Any) -> Result:
        own = known.setdefault(network, {})
        if arguments not in own:
            own[arguments] = function(network, *arguments)
        return own[arguments]

    return found
