"""What lies between pre-activations and the affine maps that read their units."""

from typing import Any, NamedTuple

from linjax.chains.groups import Group
from linjax.chains.leaves import LAYOUT, SAME, constant, follow
from linjax.chains.products import Program
from linjax.dims.layout import same_value
from linjax.dims.rules import elementwise
from linjax.exact.casts import cast_keeps
from linjax.program.flat import Op, Operand, Ref


class Region(NamedTuple):
    """An activation, operation by operation.

    Attributes:
      ops: the operations.
      reads: by position of a product that reads units, what it reads.
      leaves: numbers of the leaves that the operations read, one entry a unit or one for all.
    """

    ops: tuple[Op, ...]
    reads: dict[int, Ref]
    leaves: tuple[int, ...]


class _Unfit(Exception):
    """Something on the way isn't done unit by unit."""


def grow(program: Program, groups: list[Group], readers: frozenset[int]) -> Region | None:
    """Follows pre-activations through everything that reads them, up to the next affine maps.

    A region is accepted only if every reader of every value between the affine maps is
    understood; None otherwise.

    Args:
      program: the program.
      groups: what makes the units; all of the same features where there are several.
      readers: positions of the products that may read units.
    """
    if len(groups) > 1:
        first = groups[0].map
        for own, terms, scaling in groups:
            alike = same_value(program.layout, first.data, own.data)
            if terms or scaling or not alike or own.contract != first.contract:
                return None
    try:
        return _Grower(program, groups, readers).grown()
    except _Unfit:
        return None


class _Grower:
    """Goes through the operations of a region in order.

    Attributes:
      axis: the axis of the units in every value of the region.
      layouts: how values have been laid out; only values that are laid out alike may meet.
      functions: which function of the pre-activations values hold; layout doesn't count.
    """

    def __init__(self, program: Program, groups: list[Group], readers: frozenset[int]) -> None:
        self.program, self.allowed = program, readers
        starts = [(n, ref, g.map.axis) for n, g in enumerate(groups) for ref in g.map.results]
        self.axis = {ref.id: axis for _, ref, axis in starts}
        self.layouts: dict[int, tuple[str, ...]] = {ref.id: () for _, ref, _ in starts}
        self.functions: dict[int, Any] = {ref.id: n for n, ref, _ in starts}
        self.known: dict[Any, int] = {}
        self.read: dict[int, int] = {}

    def grown(self) -> Region | None:
        reads: dict[int, Ref] = {}
        ops: list[Op] = []
        readers = self.program.readers
        frontier = sorted({at for ref in self.axis for at in readers.get(ref, ())})
        while frontier:
            at = frontier.pop(0)
            if at < 0:
                raise _Unfit  # an output of the network
            op = self.program.ops[at]
            mine = [o for o in op.inputs if isinstance(o, Ref) and o.id in self.axis]
            product = self.program.maps.get(at) if at in self.allowed else None
            if product is not None and product.data == mine[0]:
                if product.contract != self.axis[mine[0].id]:
                    raise _Unfit
                reads[at] = mine[0]
                continue
            self.take(op, mine)
            ops.append(op)
            frontier = sorted({*frontier, *readers.get(op.outputs[0].id, ())} - {at})
        shape, uses = self.program.leaf_shape, self.program.uses
        if any(shape(leaf) and uses[leaf] != count for leaf, count in self.read.items()):
            raise _Unfit  # a parameter of the activation is used elsewhere, too
        if not reads or len({self.functions[value.id] for value in reads.values()}) > 1:
            return None
        return Region(tuple(ops), reads, tuple(self.read))

    def take(self, op: Op, mine: list[Ref]) -> None:
        """Takes an operation up, if it acts unit by unit."""
        axis, layout, out = self.axis[mine[0].id], self.layouts[mine[0].id], op.outputs[0].id
        if len(op.outputs) != 1:
            raise _Unfit
        if op.name in elementwise.RULES:
            if len({(self.axis[o.id], self.layouts[o.id]) for o in mine}) != 1:
                raise _Unfit
            for other in op.inputs:
                if other not in mine:
                    self.beside(other, axis)
        else:
            moved = follow(self.program.layout, op, axis) if len(op.inputs) == 1 else None
            if moved is None:
                raise _Unfit
            axis, layout = moved, (*layout, f"{op.name} {op.params}")
        self.axis[out], self.layouts[out] = axis, layout
        self.functions[out] = self.function(op, mine[0])

    def beside(self, other: Operand, axis: int) -> None:
        """Checks an operand from outside: a constant, a leaf with an entry a unit or just one."""
        view = self.program.seen(other)
        if view is not None:
            scalar = not self.program.leaf_shape(view.leaf)
            if scalar or self.program.unit_leaf(other, axis) is not None:
                self.read[view.leaf] = self.read.get(view.leaf, 0) + 1
                return
        if constant(self.program.layout, other) is None:
            raise _Unfit

    def function(self, op: Op, value: Ref) -> Any:
        """A number for the function that an operation's result is."""
        own, avals = self.functions[value.id], self.program.layout.program.avals
        same = op.name in LAYOUT or op.name in SAME
        if op.name == "convert_element_type":
            same = cast_keeps(avals[value.id].dtype, op.params["new_dtype"]) != "changes"
        if same:
            return own
        key = (op.name, str(op.params), tuple(map(self.operand, op.inputs)))
        return self.known.setdefault(key, -1 - len(self.known))

    def operand(self, operand: Operand) -> Any:
        if isinstance(operand, Ref) and operand.id in self.functions:
            return self.functions[operand.id]
        value = constant(self.program.layout, operand)
        return operand if value is None else ("constant", float(value))
