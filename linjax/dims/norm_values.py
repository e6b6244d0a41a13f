"""What values along a stream that norms run over are, and what it is read through."""

import enum
from typing import NamedTuple


class Read(NamedTuple):
    """What is read at a point: ``γ n + w β`` of a normalised n, or the stream itself.

    Attributes:
      scales: leaves whose product γ is.
      shifts: leaves β that are added, each with its factor w.
      normed: whether a norm stands before it.
      tied: whether a kernel that reads it makes the coordinates, too.
    """

    scales: tuple[int, ...] = ()
    shifts: tuple[tuple[int, float], ...] = ()
    normed: bool = False
    tied: bool = False


class Norms(NamedTuple):
    """What a stream is read through.

    Attributes:
      reads: by point of its site.
      centred: whether the coordinates' mean is subtracted everywhere (LayerNorm).
    """

    reads: tuple[Read, ...]
    centred: bool

    @property
    def beside(self) -> frozenset[int]:
        """The leaves of the norms, which kernels take over."""
        scales = (leaf for read in self.reads for leaf in read.scales)
        return frozenset((*scales, *(leaf for read in self.reads for leaf, _ in read.shifts)))


class Kind(enum.Enum):
    STREAM = "the stream"
    VECTOR = "normalised, centred or scaled coordinates"
    SQUARE = "squares of coordinates"
    GAIN = "a norm's factors"
    SUM = "their sum"
    ENERGY = "their sum of squares"
    SQUARED = "the square of their sum"
    NUMBER = "a function of their sum of squares"
    LEAF = "a leaf"


class Known(NamedTuple):
    """What a value is.

    Attributes:
      kind: what it is, up to a factor that is the same for all coordinates.
      weight: that factor, of sums and of what is added behind norms.
      centred: whether a mean has been subtracted.
      seen: whether that can be told from it: it would change with what is added to all coordinates.
      read: what is read if a kernel reads it.
      leaf: number of the leaf that it shows.
      of: the value of the stream that it is, or is a sum of.
    """

    kind: Kind
    weight: float = 1.0
    centred: bool = False
    seen: bool = False
    read: Read = Read()
    leaf: int = -1
    of: int = -1


class Stuck(Exception):
    """Why a stream can't change its basis."""
