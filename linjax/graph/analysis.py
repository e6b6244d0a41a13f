"""Finding the sites of a program: affine map → elementwise activation → affine maps.

Nothing is inferred from names. A site is accepted only if every reader of every value
between the two affine maps is understood; otherwise it is refused with the reason.
"""

from typing import NamedTuple

import jax

from linjax.graph import activation, primitives
from linjax.graph.channels import convolutions
from linjax.graph.channels import sites as channel_sites
from linjax.graph.channels.sites import Channels
from linjax.graph.program import Op, Operand, Program, Ref
from linjax.graph.structure import Affine, Chain, Graph, Leaf, Path, Refusal, Site, join
from linjax.graph.views import Views, find_views, operand_id, unit_axes, unit_leaf


class Dot(NamedTuple):
    """A ``dot_general`` of a data value with a parameter leaf, and where its parts are."""

    at: int
    leaf: int
    side: int
    operand: Operand
    contract: int
    layout: tuple[int, int]
    axis: int


class Interior(NamedTuple):
    """The values between two affine maps: each with the axis that runs over the units."""

    axes: dict[int, int]
    pre: Ref
    reads: dict[str, Ref]


class Analysis(NamedTuple):
    """What the runner needs beside the static graph, by affine map's name."""

    graph: Graph
    dots: dict[str, Dot]
    interiors: dict[str, Interior]
    channels: Channels = channel_sites.NONE


class _Refused(Exception):
    """A site can't be folded; the message is the reason."""


def analyse(program: Program, leaves: tuple[Leaf, ...]) -> Analysis:
    """Finds affine maps, sites, chains and refusals of a program."""
    with jax.ensure_compile_time_eval():  # activations are measured, also under a user's jit
        return _analyse(program, leaves)


def _analyse(program: Program, leaves: tuple[Leaf, ...]) -> Analysis:
    views = find_views(program)
    context = convolutions.Context.of(program, views, leaves)
    dots, convs, refusals = _dots(context)
    by_index = {dot.at: name for name, dot in dots.items()}
    readers = program.readers()
    biases = {name: _bias(program, views, readers, dot) for name, dot in dots.items()}
    affines = tuple(
        Affine(
            name=name,
            kernel=leaves[dot.leaf].path,
            bias=None if biases[name][0] is None else leaves[biases[name][0]].path,
            inputs=leaves[dot.leaf].shape[dot.layout[0]],
            outputs=leaves[dot.leaf].shape[dot.layout[1]],
            layout=dot.layout,
        )
        for name, dot in dots.items()
    )
    sites: dict[str, Site] = {}
    interiors: dict[str, Interior] = {}
    for affine in affines:
        leaf, axes, pre = biases[affine.name]
        try:
            found = _grow(program, views, readers, dots, by_index, affine, axes, pre)
        except _Refused as refusal:
            refusals.append(Refusal(affine.name, str(refusal)))
            continue
        if found is not None:
            interior, ops, read = found
            unit_leaves = [i for i in read if leaves[i].shape]
            if leaf is not None:
                interior = interior._replace(axes=interior.axes | unit_axes(views, leaf))
            interiors[affine.name] = interior
            sites[affine.name] = Site(
                name=affine.name,
                producer=affine.name,
                consumers=tuple(interiors[affine.name].reads),
                width=affine.outputs,
                activation=activation.describe(
                    program, ops, pre, views.leaf, {i: leaves[i].path for i in read}
                ),
                unit_leaves=tuple(leaves[leaf].path for leaf in unit_leaves),
            )
    for name in [s.name for s in sites.values() if len(s.consumers) > 1]:
        onward = [c for c in sites[name].consumers if c in sites]
        if onward:
            refusals.append(
                Refusal(name, f"read by several affine maps, of which {onward[0]} has units itself")
            )
            del sites[name], interiors[name]
    chains = _chains(program, dots, sites)
    products = {
        dot.at: (name, channel_sites.Product(dot.operand, dot.contract))
        for name, dot in dots.items()
    }
    found = channel_sites.find(context, convs, products)
    refusals += found.refusals
    graph = Graph(affines, chains, tuple(refusals), leaves, found.convolutions, found.sites)
    return Analysis(graph, dots, interiors, found.channels)


def _dots(
    context: convolutions.Context,
) -> tuple[dict[str, Dot], dict[str, convolutions.ConvOp], list[Refusal]]:
    """Finds affine maps' products and convolutions, and refuses what isn't simply one."""
    program, views, leaves = context.program, context.views, context.leaves
    found: list[Dot] = []
    convs: list[convolutions.ConvOp] = []
    refused: list[tuple[Path, str]] = []
    for index, op in enumerate(program.ops):
        sides = [s for s, o in enumerate(op.inputs) if isinstance(o, Ref) and o.id in views.leaf]
        if op.name == convolutions.PRIMITIVE and sides == [1]:
            try:
                convs.append(convolutions.read(context, index, op))
            except convolutions.Unfit as refusal:
                refused.append((leaves[views.of(op.inputs[1])].path, str(refusal)))
            continue
        if op.name != "dot_general":
            for side in sides:
                leaf = leaves[views.of(op.inputs[side])]
                if op.name in ("scan", "while", "cond", "shard_map"):
                    refused.append((leaf.path, _unsupported(op.name)))
            continue
        derived = [o for o in op.inputs if isinstance(o, Ref) and o.id in views.derived]
        if not sides:
            if derived:
                refused.append(((f"dot_general #{index}",), "kernel is computed from parameters"))
            continue
        try:
            found.append(_dot(program, views, leaves, index, op, sides, len(derived)))
        except _Refused as refusal:
            refused.append((leaves[views.of(op.inputs[sides[0]])].path, str(refusal)))
    known = [leaves[d.leaf].path for d in (*found, *convs)]
    names = _names(known + [path for path, _ in refused])
    refusals = [
        Refusal(name, reason)
        for name, (_, reason) in dict(zip(names[len(known) :], refused, strict=True)).items()
    ]
    dots = dict(zip(names, found, strict=False))
    return dots, dict(zip(names[len(found) :], convs, strict=False)), refusals


def _unsupported(primitive: str) -> str:
    if primitive == "scan":
        return "its layers are scanned (one stacked kernel); unroll the scan to fold them"
    return f"stands inside {primitive}"


def _dot(
    program: Program, views: Views, leaves: tuple[Leaf, ...], index: int, op: Op,
    sides: list[int], derived: int,
) -> Dot:  # fmt: skip
    """Reads one ``dot_general`` as affine map, or says why it isn't one."""
    if len(sides) == 2 or derived == 2:
        raise _Refused("both factors are parameters")
    side = sides[0]
    view = operand_id(op.inputs[side])
    leaf = leaves[views.leaf[view]]
    (contract, batch) = op.params["dimension_numbers"]
    if batch[0]:
        raise _Refused("the kernel has a batch axis (a stack of kernels)")
    if len(contract[0]) != 1 or len(program.shape(op.inputs[side])) != 2 or len(leaf.shape) != 2:
        raise _Refused(f"the kernel of shape {leaf.shape} isn't used as one matrix")
    if None in views.axes[view]:
        raise _Refused("the kernel is broadcast")
    if not leaf.dtype.startswith(("float", "bfloat")):
        raise _Refused(f"the kernel is {leaf.dtype}, not floating point")
    if views.uses[views.leaf[view]] != 1:
        raise _Refused(f"the kernel is shared ({views.uses[views.leaf[view]]} uses)")
    read = int(contract[side][0])
    axes = views.axes[view]
    samples = len(program.shape(op.inputs[1 - side])) - 1
    return Dot(
        at=index,
        leaf=views.leaf[view],
        side=side,
        operand=op.inputs[1 - side],
        contract=int(contract[1 - side][0]),
        layout=(axes[read], axes[1 - read]),
        axis=samples if side == 1 else 0,
    )


def _names(paths: list[Path]) -> list[str]:
    """Shortest readable names: the kernel's folder where that is unique, else its path."""
    common = {path[0] for path in paths if len(path) > 1}
    skip = 1 if common == {"params"} and all(len(p) > 2 or len(p) == 1 for p in paths) else 0
    folders = [join(path[skip:-1]) if len(path) > 1 else "" for path in paths]
    unique = [f and len({p for p, g in zip(paths, folders, strict=True) if g == f}) == 1
              for f in folders]  # fmt: skip
    return [
        folder if ok else join(path[skip if len(path) > 1 else 0 :])
        for path, folder, ok in zip(paths, folders, unique, strict=True)
    ]


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
            if leaf is not None and views.uses[leaf] == 1:
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


def _grow(
    program: Program, views: Views, readers: dict[int, list[int]], dots: dict[str, Dot],
    by_index: dict[int, str], affine: Affine, axes: dict[int, int], pre: Ref,
) -> tuple[Interior, list[Op], tuple[int, ...]] | None:  # fmt: skip
    """Follows a pre-activation through everything that reads it, up to the next affine maps.

    Returns None where it simply is an output of the network.
    """
    inside = dict(axes)
    layouts: dict[int, tuple[int, ...]] = {pre.id: ()}
    reads: dict[str, Ref] = {}
    read: dict[int, int] = {}
    ops: list[Op] = []
    if readers.get(pre.id) == [-1]:
        return None
    frontier = sorted(set(readers.get(pre.id, ())))
    while frontier:
        index = frontier.pop(0)
        if index < 0:
            if reads or ops:
                raise _Refused("its activation is an output of the network")
            raise _Refused("its pre-activation is an output of the network and is read elsewhere")
        op = program.ops[index]
        mine = [o for o in op.inputs if isinstance(o, Ref) and o.id in layouts]
        axis = inside[mine[0].id]
        if op.name in primitives.ELEMENTWISE:
            if len({(inside[o.id], layouts[o.id]) for o in mine}) != 1:
                raise _Refused(f"values of different layout meet in {op.name}")
            for other in op.inputs:
                if other not in mine:
                    leaf = _spread(program, views, other, axis, affine.outputs, op.name)
                    if leaf is not None:
                        read[leaf] = read.get(leaf, 0) + 1
                        inside |= unit_axes(views, leaf)
            moved, layout = axis, layouts[mine[0].id]
        elif index in by_index and dots[by_index[index]].operand == mine[0]:
            if dots[by_index[index]].contract != axis:
                raise _Refused(f"{by_index[index]} contracts another axis than the units'")
            reads[by_index[index]] = mine[0]
            continue
        else:
            moved = primitives.follow(op, program, axis) if len(op.inputs) == 1 else None
            if moved is None:
                raise _Refused(_reader(op, program, mine[0]))
            layout = (*layouts[mine[0].id], index)
        ops.append(op)
        out = op.outputs[0]
        inside[out.id], layouts[out.id] = moved, layout
        if not readers.get(out.id):
            continue
        frontier = sorted({*frontier, *readers[out.id]} - {index})
    for leaf, count in read.items():
        if program.shape(program.leaves[leaf]) and views.uses[leaf] != count:
            raise _Refused("a per-unit parameter of its activation is used elsewhere, too")
    if not reads:
        return None
    return Interior(inside, pre, reads), ops, tuple(read)


def _reader(op: Op, program: Program, value: Ref) -> str:
    """Says what reads an activation and isn't understood."""
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
        raise _Refused(f"{name} with a parameter that isn't one entry a unit")
    raise _Refused(f"{name} with another value that depends on the input")


def _chains(program: Program, dots: dict[str, Dot], sites: dict[str, Site]) -> tuple[Chain, ...]:
    """Links sites into runs, in the order of the program."""
    fed = {c for site in sites.values() for c in site.consumers}
    chains = []
    for name in (n for n in dots if n in sites and n not in fed):
        layers: list[tuple[str, ...]] = [(name,)]
        run: list[Site] = []
        while len(layers[-1]) == 1 and layers[-1][0] in sites:
            site = sites[layers[-1][0]]
            run.append(site)
            layers.append(site.consumers)
        source = "input" if _is_input(program, dots[name].operand) else "hidden"
        chains.append(Chain(tuple(layers), tuple(run), source))
    return tuple(chains)


def _is_input(program: Program, operand: Operand) -> bool:
    """Whether a value is the network's first input, at most flattened."""
    made = {out.id: op for op in program.ops for out in op.outputs}
    while isinstance(operand, Ref) and operand.id in made:
        op = made[operand.id]
        if op.name not in ("reshape", "convert_element_type"):
            return False
        operand = op.inputs[0]
    return bool(program.inputs) and operand == program.inputs[0]
