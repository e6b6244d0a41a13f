"""Reading convolutions off a program, with the per-channel affine map behind each."""

from typing import NamedTuple

from linjax.graph import activation
from linjax.graph.channels.places import Place
from linjax.graph.channels.spreads import Spread, closure, find_spreads, named
from linjax.graph.maps import Convolution, Path, Rescaling, Scaling
from linjax.graph.program import Op, Operand, Program, Ref
from linjax.graph.structure import Leaf
from linjax.graph.views import Views, operand_id

PRIMITIVE = "conv_general_dilated"


class Unfit(Exception):
    """Something can't be folded; the message is the reason."""


class ConvOp(NamedTuple):
    """A convolution's operation in a program.

    Attributes:
      at: index of the operation.
      leaf: index of the kernel leaf.
      view: the leaf's axis for each axis of the kernel operand.
      operand: what it reads.
      reads: axis of the operand that runs over channels.
      axis: axis of the result that does.
    """

    at: int
    leaf: int
    view: tuple[int, ...]
    operand: Operand
    reads: int
    axis: int


class Behind(NamedTuple):
    """What follows a convolution before its pre-activation is complete.

    Attributes:
      bias: index of the bias leaf, None without one.
      start: the value in front of the scaling.
      pre: the pre-activation.
      scaling: the per-channel affine map from ``start`` to ``pre``, None without one.
      ops: indices of the scaling's operations.
      spreads: values computed from bias and scaling parameters.
    """

    bias: int | None
    start: Ref
    pre: Ref
    scaling: Scaling | None
    ops: tuple[int, ...]
    spreads: frozenset[int]


class Context(NamedTuple):
    """What every step of the analysis looks up."""

    program: Program
    views: Views
    leaves: tuple[Leaf, ...]
    readers: dict[int, list[int]]
    spreads: dict[int, Spread]

    @classmethod
    def of(cls, program: Program, views: Views, leaves: tuple[Leaf, ...]) -> "Context":
        """Gathers it for a program."""
        return cls(program, views, leaves, program.readers(), find_spreads(program, views))

    def paths(self, leaves: frozenset[int]) -> tuple[Path, ...]:
        """Paths of leaves by index, in the pytree's order."""
        return tuple(self.leaves[i].path for i in sorted(leaves))

    def only_here(self, refs: set[int], ops: set[int]) -> bool:
        """Whether these values are read by each other and by the given operations only."""
        made = {
            op.outputs[0].id: i for i, op in enumerate(self.program.ops) if len(op.outputs) == 1
        }
        inside = ops | {made[ref] for ref in refs if ref in made}
        return all(set(self.readers.get(ref, ())) <= inside for ref in refs)


def read(context: Context, index: int, op: Op) -> ConvOp:
    """Reads an operation as a convolution with a parameter as kernel, or says why it isn't one.

    Raises:
      Unfit: with the reason.
    """
    program, views = context.program, context.views
    lhs, rhs = op.inputs
    if operand_id(lhs) in views.derived:
        raise Unfit("a convolution of parameters")
    leaf = views.of(rhs)
    axes = views.axes[operand_id(rhs)]
    if None in axes or sorted(a for a in axes if a is not None) != list(range(len(axes))):
        raise Unfit("its kernel is broadcast or reshaped")
    if len(program.shape(program.leaves[leaf])) != len(axes):
        raise Unfit("its kernel is broadcast or reshaped")
    if views.uses[leaf] != 1:
        raise Unfit(f"its kernel is shared ({views.uses[leaf]} uses)")
    if not context.leaves[leaf].dtype.startswith(("float", "bfloat")):
        raise Unfit(f"its kernel is {context.leaves[leaf].dtype}, not floating point")
    if op.params["batch_group_count"] != 1:
        raise Unfit("a convolution grouped over its batch")
    numbers = op.params["dimension_numbers"]
    view = tuple(a for a in axes if a is not None)
    return ConvOp(index, leaf, view, lhs, int(numbers.lhs_spec[1]), int(numbers.out_spec[1]))


def groups(context: Context, op: Op) -> int:
    """Number of groups of a convolution; −1 if it is depthwise, one kernel a channel."""
    count = int(op.params["feature_group_count"])
    numbers = op.params["dimension_numbers"]
    shape = context.program.shape(op.inputs[1])
    per_group, outputs = shape[numbers.rhs_spec[1]], shape[numbers.rhs_spec[0]]
    return -1 if count > 1 and per_group == 1 and outputs == count else count


def describe(context: Context, name: str, conv: ConvOp, behind: Behind) -> Convolution:
    """Returns a convolution's static description."""
    op = context.program.ops[conv.at]
    spec = op.params["dimension_numbers"].rhs_spec  # outputs, inputs, space
    leaf = context.leaves[conv.leaf]
    axes = tuple(conv.view[a] for a in (*spec[2:], spec[1], spec[0]))
    pads = any(tuple(p) != (0, 0) for p in op.params["padding"])
    holes = any(d != 1 for d in op.params["lhs_dilation"])
    return Convolution(
        name=name,
        kernel=leaf.path,
        bias=None if behind.bias is None else context.leaves[behind.bias].path,
        inputs=leaf.shape[axes[-2]] * groups(context, op),
        outputs=leaf.shape[axes[-1]],
        axes=axes,
        window=tuple(leaf.shape[a] for a in axes[:-2]),
        padded=pads or holes,
        scaling=behind.scaling,
        groups=groups(context, op),
    )


def look_behind(context: Context, start: Ref, axis: int, width: int) -> Behind:
    """Follows a result to its bias and through the per-unit affine map behind it."""
    program, readers = context.program, context.readers
    value, bias = start, None
    steps: list[Rescaling] = []
    ops: list[int] = []
    passed: set[int] = set()
    leaves: frozenset[int] = frozenset()
    done = Behind(None, start, start, None, (), frozenset())
    operands: list[Operand] = []
    while len(readers.get(value.id, ())) == 1 and readers[value.id][0] >= 0:
        index = readers[value.id][0]
        op = program.ops[index]
        step = _step(context, op, value, axis, width)
        if step is None:
            break
        rescaling, own, operand = step
        value, ops = op.outputs[0], [*ops, index]
        passed.add(index)
        operands += [] if operand is None else [operand]
        spread = closure(program, operands, context.spreads)
        mine = context.only_here(spread, passed)
        if not steps and bias is None and rescaling is not None and _plain_bias(rescaling, own):
            if not mine:
                break
            (bias,) = own
            done = Behind(bias, value, value, None, (), frozenset(spread))
            ops = []
            continue
        if rescaling is not None:
            steps.append(rescaling)
        leaves |= own
        if own and mine:
            scaling = Scaling(tuple(steps), context.paths(leaves))
            done = Behind(bias, done.start, value, scaling, tuple(ops), frozenset(spread))
    return done


def _plain_bias(step: Rescaling, leaves: frozenset[int]) -> bool:
    return step.op == "add" and len(leaves) == 1 and len(step.operand) == 1


def _step(
    context: Context, op: Op, value: Ref, axis: int, width: int
) -> tuple[Rescaling | None, frozenset[int], Operand | None] | None:
    """One operation of a per-unit affine map: what it does, its leaves, its other operand."""
    if op.name == "convert_element_type":
        avals = context.program.avals
        same = avals[op.outputs[0].id].dtype == avals[value.id].dtype
        return (None, frozenset(), None) if same else None
    if op.name not in ("add", "sub", "mul", "div") or list(op.inputs).count(value) != 1:
        return None
    other = op.inputs[1] if op.inputs[0] == value else op.inputs[0]
    kind = op.name
    if op.inputs[1] == value:
        if kind == "div":
            return None
        kind = "rsub" if kind == "sub" else kind
    spread = context.spreads.get(operand_id(other))
    if spread is not None:
        if (spread.axis, spread.width) != (axis, width) or spread.terms is None:
            return None
        paths = [leaf.path for leaf in context.leaves]
        return Rescaling(kind, named(spread.terms, paths)), spread.leaves, other
    number = activation.constant(context.program, other)
    if number is None:
        return None
    terms = named((("constant", 0, float(number)),), [])
    return Rescaling(kind, terms), frozenset(), None


def place_of(conv: ConvOp) -> Place:
    """Where a convolution's result has its channels."""
    return Place(conv.axis)
