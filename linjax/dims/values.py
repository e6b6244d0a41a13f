"""What is known of a value while a program is read: its axes, and where it comes from."""

from enum import IntEnum
from typing import NamedTuple

from linjax.dims.space import Axes, Axis


class Source(IntEnum):
    """What a value depends on; the largest of its operands' holds."""

    CONSTANT = 0
    PARAMETER = 1
    DATA = 2


class Value(NamedTuple):
    """A value's axes.

    Attributes:
      axes: one for each of its dimensions.
      varies: which of them its entries differ along; along the others it was spread.
      source: what it depends on.
      leaf: number of the parameter leaf that it is a mere view of, None if it is none.
      zero: whether it is a constant without any other number.
    """

    axes: Axes
    varies: tuple[bool, ...]
    source: Source
    leaf: int | None = None
    zero: bool = False

    def turns(self, n: int) -> bool:
        """Whether its entries go along where an axis changes its basis.

        Those of data and of parameters do, if each has its own; of constants only zeros do.
        """
        return self.zero or (self.varies[n] and self.source is not Source.CONSTANT)

    def along(self, axis: Axis) -> bool:
        """Whether its entries differ along an axis of its own."""
        return any(v for a, v in zip(self.axes, self.varies, strict=True) if a is axis)


class Role(IntEnum):
    """What an operation does to a dimension of its operand or result."""

    MADE = 0  # a product with parameters makes it
    READ = 1  # a product with parameters sums over it
    PAIRED = 2  # a product of two data values sums over it
    BESIDE = 3  # a product does the same for each of its coordinates: heads, groups, experts
    FILTERED = 4  # parameters act on each coordinate, and on its surroundings
    LINEAR = 5  # linear, the same for each coordinate
    SHIFTED = 6  # a parameter leaf is added to it
    SCALED = 7  # affine, by other numbers of the coordinate's own
    BENT = 8  # a nonlinear function of each coordinate
    GATED = 9  # multiplied by data, coordinate by coordinate
    POOLED = 10  # nonlinear in its surroundings: a largest value
    SUMMED = 11  # summed over: a norm, a mean
    WEIGHED = 12  # parameters alone are summed over it


class Touch(NamedTuple):
    """An operation's role for an axis: of an operand by its number, or of the result (−1)."""

    op: int
    role: Role
    axis: Axis
    operand: int = -1
