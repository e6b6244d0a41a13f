"""Finding dense sites: affine map → elementwise activation → affine maps.

A site is accepted only if every reader of every value between the affine maps is understood;
otherwise it is refused with the reason.
"""

from typing import Any, NamedTuple

from linjax.graph import activation, gates, primitives
from linjax.graph.channels.convolutions import Behind, Context, look_behind
from linjax.graph.dots import Dot, Refused
from linjax.graph.linking import one_gated
from linjax.graph.program import Op, Operand, Program, Ref
from linjax.graph.structure import Affine, Leaf, Refusal, Site
from linjax.graph.views import Views, unit_axes, unit_leaf


class Interior(NamedTuple):
    """The values between two affine maps: each with the axis that runs over the units."""

    axes: dict[int, int]
    pre: Ref
    reads: dict[str, Ref]


class Met(Exception):
    """The results of another affine map take part in the activation, unit by unit."""


class Ground(NamedTuple):
    """The program and what has been found in it, for growing sites.

    Attributes:
      program: the program.
      views: its views of parameters.
      dots: its affine maps' products by name.
      by_index: their names by the index of the operation.
      readers: indices of the operations that read each value.
      biases: by name: bias leaf, unit axes up to the pre-activation, pre-activation.
      made: the operation that makes each value.
      starts: names by the number of their pre-activation.
      behind: the per-unit affine map between bias and pre-activation, by name, where there is
        one.
    """

    program: Program
    views: Views
    dots: dict[str, Dot]
    by_index: dict[int, str]
    readers: dict[int, list[int]]
    biases: dict[str, tuple[int | None, dict[int, int], Ref]]
    made: dict[int, Op]
    starts: dict[int, str]
    behind: dict[str, Behind]

    @classmethod
    def of(cls, context: Context, dots: dict[str, Dot]) -> "Ground":
        """Looks up biases, readers and makers once."""
        program, views, readers = context.program, context.views, context.readers
        biases = {name: _bias(program, views, readers, dot) for name, dot in dots.items()}
        behind = {name: _scaling(context, *biases[name][1:]) for name in dots}
        behind = {name: found for name, found in behind.items() if found is not None}
        for name, found in behind.items():
            leaf, axes, start = biases[name]
            axis = axes[start.id]
            values = {program.ops[index].outputs[0].id: axis for index in found.ops}
            biases[name] = leaf, axes | values, found.pre
        starts = {pre.id: name for name, (_, _, pre) in biases.items()}
        by_index = {dot.at: name for name, dot in dots.items()}
        made = gates.makers(program)
        return cls(program, views, dots, by_index, readers, biases, made, starts, behind)


class Found(NamedTuple):
    """Dense sites by their producers' names, their interiors, and what was refused."""

    sites: dict[str, Site]
    interiors: dict[str, Interior]
    refusals: list[Refusal]


def find_sites(
    ground: Ground, affines: tuple[Affine, ...], leaves: tuple[Leaf, ...], mixed: bool
) -> Found:
    """Grows a site from every affine map, or says why there is none.

    In a network that has convolutions, too (``mixed``), chains don't branch.
    """
    result = Found({}, {}, [])
    mated: set[str] = set()
    for affine in affines:
        if affine.name in mated:
            continue
        try:
            group, grown = _together(ground, affines, affine)
        except Refused as refusal:
            result.refusals.append(Refusal(affine.name, str(refusal)))
            continue
        if grown is not None:
            try:
                site, interior = _site(ground, affine, group, grown, leaves)
            except Refused as refusal:
                result.refusals.append(Refusal(affine.name, str(refusal)))
                continue
            result.sites[site.name], result.interiors[site.name] = site, interior
            mated.update(group)
    for name in [s.name for s in result.sites.values() if len(s.consumers) > 1]:
        consumers = result.sites[name].consumers
        onward = [c for c in consumers if c in result.sites or c in mated]
        if mixed and onward and not one_gated(result.sites, consumers):
            reason = (
                f"read by several affine maps, of which {onward[0]} has units itself, in a network "
                "with convolutions"
            )
            result.refusals.append(Refusal(name, reason))
            del result.sites[name], result.interiors[name]
    return result


def _together(
    ground: Ground, affines: tuple[Affine, ...], affine: Affine
) -> tuple[list[str], "Grown | None"]:
    """Grows a site from an affine map and from those whose results it meets on the way."""
    group = [affine.name]
    while True:
        try:
            return group, _grow(ground, group, affine.outputs)
        except Met as met:
            group.append(_mate(ground, affines, group, *met.args))


class Grown(NamedTuple):
    """What lies between pre-activations and the affine maps that read the units."""

    interior: Interior
    ops: list[Op]
    read: tuple[int, ...]


def _site(
    ground: Ground, affine: Affine, group: list[str], grown: Grown, leaves: tuple[Leaf, ...]
) -> tuple[Site, Interior]:
    """Describes a site; a gated layer goes by the name of its gate."""
    pres = tuple(ground.biases[name][2] for name in group)
    lead = 0
    if len(group) > 1 and ground.behind.keys() & set(group):
        raise Refused("batch norm stands in front of a product of layers")
    if len(group) > 1:
        described, lead = gates.describe(ground.program, grown.ops, pres)
    else:
        paths = {i: leaves[i].path for i in grown.read}
        described = activation.describe(
            ground.program, grown.ops, pres[0], ground.views.leaf, paths
        )
    interior = grown.interior._replace(pre=pres[lead])
    for leaf in (ground.biases[name][0] for name in group):
        if leaf is not None:
            interior = interior._replace(axes=interior.axes | unit_axes(ground.views, leaf))
    site = Site(
        name=group[lead],
        producer=group[lead],
        consumers=tuple(interior.reads),
        width=affine.outputs,
        activation=described,
        unit_leaves=tuple(leaves[i].path for i in grown.read if leaves[i].shape),
        mates=tuple(name for i, name in enumerate(group) if i != lead),
    )
    return site, interior


def _bias(
    program: Program, views: Views, readers: dict[int, list[int]], dot: Dot
) -> tuple[int | None, dict[int, int], Ref]:
    """Follows a product to its bias: returns the bias leaf, the unit axes, the pre-activation."""
    value, axis = program.ops[dot.at].outputs[0], dot.axis
    axes = {value.id: axis}
    while len(readers.get(value.id, ())) == 1 and readers[value.id][0] >= 0:
        op = program.ops[readers[value.id][0]]
        if op.name == "add" and len(set(op.inputs)) == 2:
            other = next(o for o in op.inputs if o != value)
            leaf = unit_leaf(program, views, other, axis)
            same = leaf is not None and program.part(leaf) == program.part(dot.leaf)
            if leaf is not None and same and views.uses[leaf] == 1:
                axes[op.outputs[0].id] = axis
                return leaf, axes, op.outputs[0]
            break
        moved = primitives.follow(op, program, axis)
        if moved is None:
            break
        value, axis = op.outputs[0], moved
        axes[value.id] = axis
    start = program.ops[dot.at].outputs[0]
    return None, {start.id: dot.axis}, start


def _scaling(context: Context, axes: dict[int, int], start: Ref) -> Behind | None:
    """The per-unit affine map behind a bias, if there is one."""
    axis = axes[start.id]
    found = look_behind(context, start, axis, context.program.shape(start)[axis])
    return found if found.scaling is not None and found.bias is None else None


_MEETING = {"add": "added to", "sub": "set off against", "mul": "multiplied with"}


def _mate(
    ground: Ground, affines: tuple[Affine, ...], group: list[str], name: str, how: str
) -> str:
    """Checks that an affine map can share its units with those of a group."""
    widths = {affine.name: affine.outputs for affine in affines}
    first, other = ground.dots[group[0]], ground.dots[name]
    how = f"its units are {_MEETING.get(how, f'joined by {how}')} the result of {name}"
    same = gates.same_value(ground.made, first.operand, other.operand)
    if name in group or not same or first.contract != other.contract:
        stream = ": a residual stream, or branches that meet" if "added" in how else ""
        raise Refused(f"{how}, which reads other features{stream}")
    if widths[name] != widths[group[0]]:
        raise Refused(f"{how}, which has other units")
    return name


def _grow(ground: Ground, group: list[str], width: int) -> Grown | None:
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
        if op.name in primitives.ELEMENTWISE and op.name not in primitives.VIEWS:
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
        return (
            "its units are concatenated with other features (concatenate)"
            if along
            else "it is concatenated with other samples (concatenate)"
        )
    cut = op.name in ("split", "slice", "dynamic_slice")
    if cut and program.shape(op.outputs[0])[axis] != program.shape(value)[axis]:
        return (
            f"its units are cut apart ({op.name}) and don't meet again one by one: the parts could "
            "fold with a kernel for each"
        )
    if op.name == "dot_general":
        return "it is multiplied with a kernel that can't be folded, or with another activation"
    if op.name in ("reshape", "transpose", "broadcast_in_dim", "squeeze"):
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
