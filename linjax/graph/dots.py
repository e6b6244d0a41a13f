"""Finding affine maps: products of a data value with a parameter leaf."""

from typing import NamedTuple

from linjax.graph.maps import Path, join
from linjax.graph.program import Op, Operand, Program, Ref
from linjax.graph.scaling import Context
from linjax.graph.structure import Leaf, Refusal
from linjax.graph.views import Views, operand_id

_ROUNDED = "the kernel is cast to other numbers on its way: to integers, or to fewer bits and back"


class Refused(Exception):
    """Something can't be folded; the message is the reason."""


class Dot(NamedTuple):
    """A ``dot_general`` of a data value with a parameter leaf, and where its parts are."""

    at: int
    leaf: int
    side: int
    operand: Operand
    contract: int
    layout: tuple[int, int]
    axis: int


def find_dots(context: Context) -> tuple[dict[str, Dot], list[Refusal]]:
    """Finds affine maps' products, and refuses what isn't simply one."""
    program, views, leaves = context.program, context.views, context.leaves
    found: list[Dot] = []
    refused: list[tuple[Path, str]] = []
    for index, op in enumerate(program.ops):
        sides = [s for s, o in enumerate(op.inputs) if isinstance(o, Ref) and o.id in views.leaf]
        if op.name == "dot_general":
            lost = [
                views.rounded[operand_id(o)] for o in op.inputs if operand_id(o) in views.rounded
            ]
            refused += [(leaves[leaf].path, _ROUNDED) for leaf in lost]
            if lost:
                continue
        if op.name != "dot_general":
            for side in sides:
                leaf = leaves[views.of(op.inputs[side])]
                if op.name in ("scan", "while", "cond", "shard_map"):
                    refused.append((leaf.path, f"stands inside {op.name}"))
            continue
        derived = [o for o in op.inputs if isinstance(o, Ref) and o.id in views.derived]
        if not sides:
            if derived:
                refused.append(((f"dot_general #{index}",), "kernel is computed from parameters"))
            continue
        try:
            found.append(_dot(program, views, leaves, index, op, sides, len(derived)))
        except Refused as refusal:
            refused.append((leaves[views.of(op.inputs[sides[0]])].path, str(refusal)))
    known = [leaves[dot.leaf].path for dot in found]
    names = _names(known + [path for path, _ in refused])
    for i, part in enumerate(program.part(dot.leaf) for dot in found):
        names[i] += f"[{part.number}]" if part.of > 1 else ""
    refusals = [
        Refusal(name, reason)
        for name, (_, reason) in dict(zip(names[len(known) :], refused, strict=True)).items()
    ]
    return dict(zip(names, found, strict=False)), refusals


def _dot(
    program: Program, views: Views, leaves: tuple[Leaf, ...], index: int, op: Op,
    sides: list[int], derived: int,
) -> Dot:  # fmt: skip
    """Reads one ``dot_general`` as affine map, or says why it isn't one."""
    if len(sides) == 2 or derived == 2:
        raise Refused("both factors are parameters")
    side = sides[0]
    view = operand_id(op.inputs[side])
    leaf = leaves[views.leaf[view]]
    (contract, batch) = op.params["dimension_numbers"]
    if batch[0]:
        raise Refused("the kernel has a batch axis (a stack of kernels)")
    if len(contract[0]) != 1 or len(program.shape(op.inputs[side])) != 2 or len(leaf.shape) != 2:
        raise Refused(f"the kernel of shape {leaf.shape} isn't used as one matrix")
    if None in views.axes[view]:
        raise Refused("the kernel is broadcast")
    if not leaf.dtype.startswith(("float", "bfloat")):
        raise Refused(f"the kernel is {leaf.dtype}, not floating point")
    if views.uses[views.leaf[view]] != 1:
        raise Refused(f"the kernel is shared ({views.uses[views.leaf[view]]} uses)")
    read = int(contract[side][0])
    axes = views.axes[view]
    cut = program.cuts.get(program.leaves[views.leaf[view]].id)
    if cut is not None and cut.axis != axes[1 - read]:
        raise Refused("the kernel's rows are cut apart")
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
