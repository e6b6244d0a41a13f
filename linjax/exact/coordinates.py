"""What a network's values are to the coordinates of one dimension."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.layout import Held, Layout, number
from linjax.dims.span import Span, places
from linjax.dims.values import Source
from linjax.exact.casts import is_kind
from linjax.exact.scalar import Parameter
from linjax.program.flat import Const, Op, Operand

VIEWS = frozenset(
    {"reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "split"}
)
"""Operations that lay entries out anew."""


class Coordinates(NamedTuple):
    """A dimension of a network.

    Attributes:
      layout: the network.
      dim: the dimension.
      repeats: dimensions that it is repeated along.
    """

    layout: Layout
    dim: int
    repeats: frozenset[int]

    def varies(self, held: Held) -> bool:
        """Whether entries differ from coordinate to coordinate."""
        pairs = zip(held.spans, held.varies, strict=True)
        return any(v and self.dim in span.dims() for span, v in pairs)

    def whole(self, op: Op, held: Held) -> bool:
        """Whether a view of a leaf has all of its entries with the dimension."""
        loops = math.prod(span.size for span in self.layout.steps[number(op)])
        leaf = self.layout.leaves[held.leaf]
        return loops * self.entries(held.spans) == self.entries(leaf)

    def entries(self, spans: Sequence[Span]) -> int:
        """The number of entries for each coordinate of the dimension."""
        at = next(span for span in spans if self.dim in span.dims())
        others = math.prod(span.size for span in spans if span is not at)
        return others * len(places(at, self.dim, self.layout.traced.__getitem__))

    def alone(self, held: Held) -> bool:
        """Whether entries differ along the dimension and its repeats only."""
        if not self.varies(held):
            return False
        repeats = self.repeats & held.dims()
        spans = [s for s, varies in zip(held.spans, held.varies, strict=True) if varies]
        return self.entries(spans) == math.prod(self.layout.traced[d] for d in repeats)

    def outside(self, operand: Operand) -> Any:
        """What a function's other operands are: numbers, known or not."""
        if isinstance(operand, Const):
            return _same(operand.value)
        held = self.layout.values[operand.id]
        if held.source is Source.CONSTANT:
            op = self.layout.makers.get(operand.id)
            return self.outside(op.inputs[0]) if op is not None and op.name in VIEWS else None
        floating = is_kind(self.layout.program.avals[operand.id].dtype, jnp.floating)
        return Parameter(operand.id) if held.source is Source.PARAMETER and floating else None

    def zero(self, operand: Operand) -> bool:
        """Whether an operand is zero everywhere."""
        value = self.outside(operand)
        return value is not None and not isinstance(value, Parameter) and value == 0


def _same(value: Any) -> Any:
    """The one number that a constant holds everywhere, None if it isn't such."""
    if not is_kind(jnp.result_type(value), jnp.floating, jnp.integer, jnp.bool_):
        return None
    array = np.asarray(value)
    return array.flat[0] if array.size and (array == array.flat[0]).all() else None
