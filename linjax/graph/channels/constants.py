"""Values computed from constants alone: masks, counts of averaged places, zeros to pad with."""

from linjax.graph import activation, primitives
from linjax.graph.channels.convolutions import Context
from linjax.graph.channels.places import Place, constant_along
from linjax.graph.program import Const, Operand, Ref


def from_constants(context: Context, operand: Operand) -> bool:
    """Whether a value is computed from constants alone: neither inputs nor parameters."""
    if isinstance(operand, Const):
        return True
    made = context.program.makers()
    todo, seen = [operand.id], set()
    while todo:
        ref = todo.pop()
        if ref in seen:
            continue
        seen.add(ref)
        if ref not in made:
            return False
        todo += [o.id for o in made[ref].inputs if isinstance(o, Ref)]
    return True


def ignores(context: Context, other: Ref, place: Place) -> bool:
    """Whether a value computed from constants is the same for all channels.

    It is where its last step spreads a smaller value over the channels' axis.
    """
    program = context.program
    if not from_constants(context, other):
        return False
    op = next(op for op in program.ops if other in op.outputs)
    if len(program.shape(other)) <= place.axis or program.shape(other)[place.axis] == 1:
        return True
    if op.name == "broadcast_in_dim":
        dims = list(op.params["broadcast_dimensions"])
        source = program.shape(op.inputs[0])
        return place.axis not in dims or source[dims.index(place.axis)] == 1
    if op.name in primitives.ELEMENTWISE or op.name == "reduce_window_sum":
        return all(
            (isinstance(o, Const) and constant_along(o, place))
            or (isinstance(o, Ref) and ignores(context, o, place))
            for o in op.inputs
        )
    return False


def is_zero(context: Context, operand: Operand) -> bool:
    value = activation.constant(context.program, operand)
    return value is not None and float(value) == 0.0
