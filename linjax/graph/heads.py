"""Attention's values: a linear path from a kernel through the attention weights to another.

With A_h the attention weights of head h, attention adds ``Σ_h A_h (x V_h + b_h) O_h`` to its
result. What stands between V_h and O_h acts on whole positions, so that a head's features can be
replaced by fewer combinations of them, ``V_h U_h``, with O_h to match. Several heads may read the
same values (grouped queries). Found by what is done with values, not by names.
"""

import math
from typing import Any, NamedTuple, TypeGuard

from linjax.graph import primitives
from linjax.graph.channels.convolutions import Context
from linjax.graph.channels.places import Place, moved
from linjax.graph.maps import Path, join
from linjax.graph.program import Const, Op, Operand, Program, Ref
from linjax.graph.structure import HeadSite
from linjax.graph.views import operand_id

Array = Any

SAME = frozenset({"convert_element_type", "copy", "copy_p", "name", "stop_gradient"})


class Inside(NamedTuple):
    """The values between two kernels, for the runner.

    Attributes:
      value: index of the product with the value kernel.
      out: index of the product with the output kernel.
      ops: indices of the operations between them, those on the bias too.
      places: by value, where a head's features are.
    """

    value: int
    out: int
    ops: frozenset[int]
    places: dict[int, Place]


class Unfit(Exception):
    """Not such a path."""


def find(
    context: Context, taken: frozenset[int], known: frozenset[str]
) -> dict[str, tuple[HeadSite, Inside]]:
    """Finds all paths of values, by name.

    Args:
      context: the program.
      taken: kernel leaves of maps that fold otherwise.
      known: names of maps, those that were refused too.
    """
    found = {}
    for index, op in enumerate(context.program.ops):
        leaf = _kernel(context, op, taken)
        if leaf is None:
            continue
        try:
            site, inside = _Growth(context, taken, known, index, op, leaf).grow()
        except Unfit:
            continue
        found[site.name] = site, inside
    return found


def _kernel(context: Context, op: Op, taken: frozenset[int]) -> int | None:
    """The leaf of a product whose second operand is a kernel used as it is, and only here."""
    if op.name != "dot_general" or len(op.inputs) != 2:
        return None
    views, program = context.views, context.program
    ref = operand_id(op.inputs[1])
    if ref not in views.leaf or operand_id(op.inputs[0]) in views.derived:
        return None
    leaf = views.leaf[ref]
    rank = len(context.leaves[leaf].shape)
    if leaf in taken or views.axes[ref] != tuple(range(rank)) or rank not in (2, 3):
        return None
    whole = program.shape(op.inputs[1]) == context.leaves[leaf].shape
    floating = context.leaves[leaf].dtype.startswith(("float", "bfloat"))
    _, batch = op.params["dimension_numbers"]
    return leaf if views.uses[leaf] == 1 and floating and whole and not batch[0] else None


class _Growth:
    """Follows the features of a value kernel to the kernel that reads them."""

    def __init__(
        self, context: Context, taken: frozenset[int], known: frozenset[str], index: int, op: Op,
        leaf: int,
    ) -> None:  # fmt: skip
        self.context, self.taken, self.known = context, taken, known
        self.index, self.op, self.leaf = index, op, leaf
        self.places: dict[int, Place] = {}
        self.rows: dict[int, Place] = {}
        self.ops: set[int] = set()
        self.bias: int | None = None
        self.out: tuple[int, int, int] | None = None
        self.mixed = False
        ((data, kernel), _) = op.params["dimension_numbers"]
        rank = len(context.program.shape(op.inputs[0]))
        if tuple(kernel) != (0,) or tuple(data) != (rank - 1,):
            raise Unfit
        self.start = op.outputs[0]
        self.shape = context.leaves[leaf].shape
        last = len(context.program.shape(self.start)) - 1
        self.heads = self.shape[1] if len(self.shape) == 3 else self._split(self.start)
        self.width = math.prod(self.shape[1:]) // self.heads
        outer = 1 if len(self.shape) == 3 else self.heads
        self.places[self.start.id] = Place(last, outer, 1)
        self.rows[self.start.id] = Place(last, 1, self.width) if outer > 1 else Place(last - 1)

    def _split(self, value: Ref) -> int:
        """Heads that a flat kernel's features are reshaped to."""
        program, readers = self.context.program, self.context.readers
        while len(readers.get(value.id, ())) == 1 and readers[value.id][0] >= 0:
            op = program.ops[readers[value.id][0]]
            if op.name == "reshape":
                before, after = program.shape(value), program.shape(op.outputs[0])
                both = math.prod(after[-2:])
                if len(after) == len(before) + 1 and both == before[-1]:
                    return after[-2]
                return 1
            if op.name not in {"add", *SAME}:
                return 1
            value = op.outputs[0]
        return 1

    def grow(self) -> tuple[HeadSite, Inside]:
        """Returns the path, or raises Unfit."""
        context = self.context
        frontier = sorted(set(context.readers.get(self.start.id, ())))
        while frontier:
            index = frontier.pop(0)
            if index < 0:
                raise Unfit
            op = context.program.ops[index]
            if self._is_out(index, op):
                continue
            place = self._place(op)
            self.rows[op.outputs[0].id] = self._row(op)
            self.ops.add(index)
            self.places[op.outputs[0].id] = place
            more = context.readers.get(op.outputs[0].id, ())
            frontier = sorted({*frontier, *more} - {index})
        if self.out is None or not self.mixed:
            raise Unfit
        return self._site(*self.out)

    def _inside(self, operand: Operand) -> TypeGuard[Ref]:
        return isinstance(operand, Ref) and operand.id in self.places

    def _is_out(self, index: int, op: Op) -> bool:
        leaf = _kernel(self.context, op, self.taken)
        read = op.inputs[0]
        if leaf is None or not self._inside(read):
            return False
        place = self.places[read.id]
        ((data, kernel), _) = op.params["dimension_numbers"]
        pairs = dict(zip(data, kernel, strict=True))
        shape = self.context.leaves[leaf].shape
        flat = len(shape) == 2 and pairs == {place.axis: 0}
        apart = len(shape) == 3 and len(pairs) == 2 and pairs.get(place.axis) == 1
        readers = place.outer if flat else shape[0]
        if not (flat or (apart and place.outer == 1)) or place.inner != 1 or self.out is not None:
            raise Unfit
        repeats, other = divmod(readers, self.heads)
        if other or not self._in_rows(read, repeats, flat):
            raise Unfit
        self.out = index, leaf, repeats
        return True

    def _in_rows(self, read: Ref, repeats: int, flat: bool) -> bool:
        """Whether as many heads in a row read the same values."""
        if self.heads == 1:
            return True
        row, place = self.rows[read.id], self.places[read.id]
        if flat:
            return row == Place(place.axis, 1, repeats * self.width)
        return row == Place(row.axis, 1, repeats) and row.axis != place.axis

    def _row(self, op: Op) -> Place:
        """Where an operation's result has the heads; anywhere, if there is one only."""
        mine = next(o for o in op.inputs if isinstance(o, Ref) and o.id in self.rows)
        row, program = self.rows[mine.id], self.context.program
        if self.heads == 1:
            return row
        if op.name == "dot_general":
            return _through(op, program, row, op.inputs.index(mine))
        to = moved(op, program, row, self.heads) if op.name in primitives.LAYOUT else row
        if to is None:
            raise Unfit
        return to

    def _place(self, op: Op) -> Place:
        """Where an operation's result has the features, if it treats all of a head alike."""
        mine = [o for o in op.inputs if self._inside(o)]
        if len(mine) != 1 or len(op.outputs) != 1:
            raise Unfit
        program, place = self.context.program, self.places[mine[0].id]
        if op.name in SAME:
            return place
        if op.name in primitives.LAYOUT and op.inputs[0] == mine[0]:
            to = moved(op, program, place, self.width)
            if to is None:
                raise Unfit
            return to
        other = next((o for o in op.inputs if o != mine[0]), None)
        if op.name in ("mul", "div") and op.inputs[0] == mine[0]:
            if isinstance(other, Const) and other.shape == ():
                return place
            raise Unfit
        if op.name == "add" and isinstance(other, Ref) and self.bias is None:
            self._bias(other, place)
            return place
        if op.name == "dot_general" and operand_id(other) not in self.context.views.derived:
            self.mixed = True
            side = op.inputs.index(mine[0])
            if place.axis in op.params["dimension_numbers"][1][side]:
                raise Unfit
            return _through(op, program, place, side)
        raise Unfit

    def _bias(self, other: Ref, place: Place) -> None:
        """Takes in a bias, and the operations that lay it out."""
        context, program = self.context, self.context.program
        made = {out.id: i for i, op in enumerate(program.ops) for out in op.outputs}
        leaf = context.views.leaf.get(other.id)
        if leaf is None or self.mixed:
            raise Unfit
        path, ref = [], other
        while ref.id in made:
            path.append(made[ref.id])
            (ref,) = (o for o in program.ops[made[ref.id]].inputs if isinstance(o, Ref))
        shape = context.leaves[leaf].shape
        fits = shape == self.shape[1:] or shape == (self.heads * self.width,)
        readers = all(len(context.readers[program.ops[i].outputs[0].id]) == 1 for i in path)
        if not fits or not readers or len(context.readers[ref.id]) != 1:
            raise Unfit
        last = len(shape) - 1
        at = Place(last, 1 if len(shape) == 2 else self.heads, 1)
        self.places[ref.id] = at
        for i in reversed(path):
            op = program.ops[i]
            to = at if op.name in SAME else moved(op, program, at, self.width)
            if to is None:
                raise Unfit
            self.ops.add(i)
            self.places[op.outputs[0].id] = at = to
        if at != place:
            raise Unfit
        self.bias = leaf

    def _site(self, index: int, leaf: int, repeats: int) -> tuple[HeadSite, Inside]:
        leaves = self.context.leaves
        site = HeadSite(
            name=_name(leaves[self.leaf].path, self.known),
            out=_name(leaves[leaf].path, self.known),
            value=leaves[self.leaf].path,
            value_bias=None if self.bias is None else leaves[self.bias].path,
            kernel=leaves[leaf].path,
            bias=self._out_bias(index, leaves[leaf].shape[-1]),
            heads=self.heads,
            width=self.width,
            inputs=self.shape[0],
            outputs=leaves[leaf].shape[-1],
            repeats=repeats,
        )
        return site, Inside(self.index, index, frozenset(self.ops), self.places)

    def _out_bias(self, index: int, outputs: int) -> Path | None:
        context, program = self.context, self.context.program
        value = program.ops[index].outputs[0]
        readers = context.readers.get(value.id, ())
        if len(readers) != 1 or readers[0] < 0 or program.ops[readers[0]].name != "add":
            return None
        for operand in program.ops[readers[0]].inputs:
            leaf = context.views.leaf.get(operand_id(operand))
            if leaf is not None and context.leaves[leaf].shape == (outputs,):
                return context.leaves[leaf].path if context.views.uses[leaf] == 1 else None
        return None


def _through(op: Op, program: Program, place: Place, side: int) -> Place:
    """Where an axis is behind a product with other data along other axes."""
    contract, batch = op.params["dimension_numbers"]
    if place.axis in contract[side]:
        raise Unfit
    if place.axis in batch[side]:
        return place._replace(axis=batch[side].index(place.axis))
    rank = len(program.shape(op.inputs[side]))
    free = [a for a in range(rank) if a not in (*contract[side], *batch[side])]
    ahead = len(batch[0])
    if side == 1:
        other = len(program.shape(op.inputs[0]))
        ahead += other - len(contract[0]) - len(batch[0])
    return place._replace(axis=ahead + free.index(place.axis))


def _name(path: Path, known: frozenset[str]) -> str:
    """The name that a kernel's map is told by elsewhere."""
    names = map(join, (path[:-1], path[1:-1], path, path[1:]))
    return next((name for name in names if name in known), join(path))
