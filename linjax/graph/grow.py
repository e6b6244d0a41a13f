"""Growing a site: from pre-activations through everything that reads them to affine maps."""

from typing import Any, NamedTuple

from linjax.exact.casts import cast_keeps
from linjax.graph import activation, gates, primitives
from linjax.graph.dots import Refused
from linjax.graph.ground import Ground
from linjax.graph.program import Op, Operand, Program, Ref
from linjax.graph.views import Views, unit_axes, unit_leaf


class Interior(NamedTuple):
    """The values between two affine maps: each with the axis that runs over the units."""

    axes: dict[int, int]
    pre: Ref
    reads: dict[str, Ref]


class Met(Exception):
    """The results of another affine map take part in the activation, unit by unit."""


class Grown(NamedTuple):
    """What lies between pre-activations and the affine maps that read the units."""

    interior: Interior
    ops: list[Op]
    read: tuple[int, ...]


def grow(ground: Ground, group: list[str], width: int) -> Grown | None:
    """Follows pre-activations through everything that reads them, up to the next affine maps.

    Returns None where one simply is an output of the network, and nothing else.
    """
    program, views, readers = ground.program, ground.views, ground.readers
    starts = [ground.biases[name][1:] for name in group]
    inside = {ref: axis for axes, _ in starts for ref, axis in axes.items()}
    layouts: dict[int, tuple[str, ...]] = {pre.id: () for _, pre in starts}
    functions = _Functions(program, {pre.id: pre.id for _, pre in starts}, {})
    reads: dict[str, Ref] = {}
    read: dict[int, int] = {}
    ops: list[Op] = []
    first = starts[0][1]
    if len(starts) == 1 and readers.get(first.id) == [-1]:
        return None
    frontier = sorted({i for _, pre in starts for i in readers.get(pre.id, ())})
    while frontier:
        index = frontier.pop(0)
        if index < 0:
            if reads or ops:
                raise Refused("its activation is an output of the network")
            raise Refused("its pre-activation is an output of the network and is read elsewhere")
        op = program.ops[index]
        mine = [o for o in op.inputs if isinstance(o, Ref) and o.id in layouts]
        axis = inside[mine[0].id]
        if op.name in primitives.ELEMENTWISE:
            if len({(inside[o.id], layouts[o.id]) for o in mine}) != 1:
                raise Refused(f"values of different layout meet in {op.name}")
            for other in op.inputs:
                if other not in mine:
                    mate = gates.origin(ground.made, ground.starts, other)
                    if mate is not None:
                        raise Met(mate, op.name)
                    leaf = _spread(program, views, other, axis, width, op.name)
                    if leaf is not None:
                        read[leaf] = read.get(leaf, 0) + 1
                        inside |= unit_axes(views, leaf)
            moved, layout = axis, layouts[mine[0].id]
        elif index in ground.by_index and ground.dots[ground.by_index[index]].operand == mine[0]:
            name = ground.by_index[index]
            if ground.dots[name].contract != axis:
                raise Refused(f"{name} contracts another axis than the units'")
            reads[name] = mine[0]
            if len({functions.of[value.id] for value in reads.values()}) > 1:
                raise Refused("affine maps read different functions of its pre-activation")
            continue
        else:
            moved = primitives.follow(op, program, axis) if len(op.inputs) == 1 else None
            if moved is None:
                raise Refused(_reader(op, program, mine[0], axis))
            layout = (*layouts[mine[0].id], f"{op.name} {op.params}")
        ops.append(op)
        out = op.outputs[0]
        inside[out.id], layouts[out.id] = moved, layout
        functions.add(op, mine[0])
        if not readers.get(out.id):
            continue
        frontier = sorted({*frontier, *readers[out.id]} - {index})
    for leaf, count in read.items():
        if program.shape(program.leaves[leaf]) and views.uses[leaf] != count:
            raise Refused("a per-unit parameter of its activation is used elsewhere, too")
    if not reads:
        return None
    return Grown(Interior(inside, first, reads), ops, tuple(read))


class _Functions(NamedTuple):
    """Numbers the functions of the pre-activations that values hold; layout doesn't count."""

    program: Program
    of: dict[int, int]
    known: dict[Any, int]

    def add(self, op: Op, value: Ref) -> None:
        """Numbers the result of an operation on a value."""
        number = self.of[value.id]
        same = op.name in primitives.VIEWS
        if op.name == "convert_element_type":
            same = (
                cast_keeps(self.program.avals[value.id].dtype, op.params["new_dtype"]) != "changes"
            )
        if op.name in primitives.ELEMENTWISE and not same:
            key = (op.name, str(op.params), tuple(map(self._operand, op.inputs)))
            number = self.known.setdefault(key, -1 - len(self.known))
        self.of[op.outputs[0].id] = number

    def _operand(self, operand: Operand) -> Any:
        if isinstance(operand, Ref) and operand.id in self.of:
            return self.of[operand.id]
        value = activation.constant(self.program, operand)
        return operand if value is None else ("constant", float(value))


def _reader(op: Op, program: Program, value: Ref, axis: int) -> str:
    """Says what reads an activation, with its units along an axis, and isn't understood."""
    if op.name == "concatenate":
        along = op.params["dimension"] == axis
        return f"it is concatenated with other {'features' if along else 'samples'} (concatenate)"
    cut = op.name in ("split", "slice", "dynamic_slice")
    if cut and program.shape(op.outputs[0])[axis] != program.shape(value)[axis]:
        return f"its units are cut apart ({op.name}) and don't meet again one by one"
    if op.name == "dot_general":
        return "it is multiplied with a kernel that can't be folded, or with another activation"
    if op.name in primitives.LAYOUT:
        shapes = f"{program.shape(value)} → {program.shape(op.outputs[0])}"
        return f"{op.name} {shapes} mixes the unit axis with others"
    return f"it is read by {op.name}, which doesn't act unit by unit"


def _spread(
    program: Program, views: Views, other: Operand, axis: int, width: int, name: str
) -> int | None:
    """Checks a second operand of an elementwise operation: a constant or one entry a unit.

    Returns the leaf that holds the entries or one number for all, None for a constant.
    """
    leaf = unit_leaf(program, views, other, axis)
    if leaf is not None and program.shape(other)[axis] == width:
        return leaf
    if isinstance(other, Ref) and other.id in views.leaf:
        scalar = views.of(other)
        if not program.shape(program.leaves[scalar]):
            return scalar
    if activation.constant(program, other) is not None:
        return None
    if isinstance(other, Ref) and other.id in views.derived:
        raise Refused(f"{name} with a parameter that isn't one entry a unit")
    if name in ("add", "sub"):
        raise Refused(
            f"{name} with another value that depends on the input: a residual stream, or branches "
            "that meet"
        )
    raise Refused(f"{name} with another value that depends on the input")
