"""Functions of parameters that are given in parts, each a leaf of its own."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

from linjax.graph.maps import Path


@dataclasses.dataclass(frozen=True, eq=False)
class Divided(abc.ABC):
    """A function of which some parameters are given in parts.

    Attributes:
      apply_fn: the function of whole parameters.
      template: its parameter pytree as shapes and dtypes.
    """

    apply_fn: Callable[..., Any]
    template: Any

    @abc.abstractmethod
    def count(self, path: Path) -> int | None:
        """Number of a leaf's parts, None if it is whole."""

    def split(self, path: Path) -> list[Path]:
        """Paths of a leaf's parts; of a leaf that is whole, its own."""
        count = self.count(path)
        if count is None:
            return [path]
        return [(*path[:-1], str(i), path[-1]) for i in range(count)]

    def original(self, path: Path) -> Path:
        """Path of the leaf that a part was taken from; of a leaf that is whole, its own."""
        whole = (*path[:-2], path[-1])
        return whole if len(path) > 1 and path in self.split(whole) else path
