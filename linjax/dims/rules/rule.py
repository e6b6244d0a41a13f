"""What a rule is, and what it may ask."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from linjax.dims.space import Axes, Axis, find, freeze
from linjax.dims.span import Span, Spans
from linjax.dims.values import Role, Source, Touch, Value
from linjax.program.flat import Op


class Result(NamedTuple):
    """Axes of a result, and along which of them its entries differ (all unless said)."""

    axes: Axes
    varies: tuple[bool, ...] | None = None


class View(NamedTuple):
    """An operation as its rule sees it.

    Attributes:
      op: the operation.
      number: its number.
      ins: its operands.
      shapes: shapes of its results when traced.
      touches: what operations do to dimensions; rules add to it.
    """

    op: Op
    number: int
    ins: tuple[Value, ...]
    shapes: tuple[tuple[int, ...], ...]
    touches: list[Touch]

    @property
    def params(self) -> dict[str, Any]:
        """The primitive's parameters."""
        return self.op.params

    def note(self, role: Role, axis: Axis, operand: int = -1) -> None:
        """Notes what the operation does to an axis; parameters on their way don't count."""
        if any(v.source is Source.DATA for v in self.ins):
            self.touches.append(Touch(self.number, role, axis, operand))

    def lifted(self, n: int, size: int, places: Sequence[int]) -> bool:
        """Whether some operands differ along an axis of theirs, and others are the same along it.

        A number that every coordinate gets is another vector in another basis, and lies on no
        combination of coordinates as it lies on each of them. Zero is zero in all.
        """
        own = [self.ins[k] for k in places]
        differ = [n < len(v.axes) and v.varies[n] and find(v.axes[n]).size == size for v in own]
        return any(differ) and not all(d or v.zero for d, v in zip(differ, own, strict=True))

    def joined(self, *at: tuple[int, int]) -> Role:
        """What happens along an axis where operands are put side by side along another one.

        Args:
          *at: operands, by place, with the number of that axis.
        """
        alike = all(self.ins[k].turns(n) for k, n in at)
        return Role.LINEAR if alike else Role.SCALED

    def weigh(self, axis: Axis) -> None:
        """Notes that an axis is summed over, if it is one of parameters alone."""
        if max(v.source for v in self.ins) is Source.PARAMETER:
            self.touches.append(Touch(self.number, Role.WEIGHED, axis, 0))

    def stay(self, axis: Axis, why: str = "") -> None:
        """Freezes an axis, by the operation's name unless a better reason is at hand."""
        freeze(axis, why or f"{self.op.name} mixes its coordinates")

    def whole(self, axes: Sequence[Axis], shape: Sequence[int]) -> Axes:
        """Own axes where sizes stayed, new frozen ones where they changed."""
        result = []
        for axis, size in zip(axes, shape, strict=True):
            if find(axis).size != size:
                self.stay(axis)
                axis = fresh(size)
                self.stay(axis)
            result.append(axis)
        return tuple(result)


class Now(NamedTuple):
    """An operation about to run at other sizes.

    Attributes:
      op: the operation.
      ins: axes of its operands.
      outs: axes of its results.
      values: its operands' values.
      size: the size that an axis has now.
      point: where an entry's index stands now among those of an axis.
    """

    op: Op
    ins: tuple[Spans, ...]
    outs: tuple[Spans, ...]
    values: tuple[Any, ...]
    size: Callable[[Span], int]
    point: Callable[[Span, int], int]

    def sizes(self, spans: Spans) -> tuple[int, ...]:
        """The sizes of several axes."""
        return tuple(map(self.size, spans))


class Rule(NamedTuple):
    """What is known of a primitive.

    Attributes:
      axes: the results' axes.
      resized: parameters that change with sizes.
    """

    axes: Callable[[View], list[Result]]
    resized: Callable[[Now], dict[str, Any]] = lambda now: {}


def fresh(size: int) -> Axis:
    """A new axis."""
    return Axis(size)
