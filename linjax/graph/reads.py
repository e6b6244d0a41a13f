"""What affine maps and convolutions read, and what their results are added to."""

from typing import Any, NamedTuple

from linjax.graph.analysis import Analysis
from linjax.graph.channels.windows import Windows, drawn, of_product, patches
from linjax.graph.program import Op, Program, Ref

Array = Any


class Read(NamedTuple):
    """What one map reads.

    Attributes:
      value: the operand.
      windows: how it is read.
      beside: ``(examples, …, outputs)``, what the result is added to, computed before it: the
        other branch of a residual sum; None where there is no such sum.
    """

    value: Array
    windows: Windows
    beside: Array | None = None


def dense(value: Array) -> Read:
    """What a dense layer reads, its features on the last axis."""
    return Read(value, of_product(value.ndim, value.ndim - 1, 1, 1))


def rows(read: Read, places: int, key: Array) -> Array:
    """Returns what is read at some places of every example, ``(samples, taps · features)``."""
    taken = patches(read.value, read.windows, places, key)
    return taken.reshape(taken.shape[0] * taken.shape[1], -1)


def beside_rows(read: Read, places: int, key: Array) -> Array:
    """Returns what the results of :func:`rows` are added to, ``(samples, outputs)``."""
    value = read.beside.reshape(read.beside.shape[0], -1, read.beside.shape[-1])
    return value[:, drawn(value.shape[1], places, key)].reshape(-1, value.shape[-1])


def partners(analysis: Analysis) -> dict[str, tuple[Ref, tuple[int, ...]]]:
    """Finds the values that results are added to, by name, with their axes, outputs last."""
    program = analysis.program
    readers = program.readers()
    data = program.data()
    born = {ref.id: i for i, op in enumerate(program.ops) for ref in op.outputs}
    found = {}
    for name, conv in analysis.channels.convs.items():
        batch, channels, *space = program.ops[conv.at].params["dimension_numbers"].out_spec
        other = _added(program, readers, data, conv.at)
        if other is not None and born.get(other.id, -1) < conv.at:
            found[name] = other, (batch, *space, channels)
    for name, dot in analysis.dots.items():
        other = _added(program, readers, data, dot.at)
        if other is not None and born.get(other.id, -1) < dot.at:
            axes = [a for a in range(len(program.shape(other))) if a != dot.axis]
            found[name] = other, (*axes, dot.axis)
    return found


def _added(
    program: Program, readers: dict[int, list[int]], data: frozenset[int], at: int
) -> Ref | None:
    """The other term of the sum that a result goes into, behind its bias and scaling."""
    value = program.ops[at].outputs[0]
    while len(readers.get(value.id, ())) == 1 and readers[value.id][0] >= 0:
        op = program.ops[readers[value.id][0]]
        if op.name not in ("add", "add_any", "sub", "mul", "div") or len(op.inputs) != 2:
            return None
        other = _other(op, value)
        if isinstance(other, Ref) and other.id in data:
            same = program.shape(other) == program.shape(value)
            return other if op.name in ("add", "add_any") and same and other != value else None
        value = op.outputs[0]
    return None


def _other(op: Op, value: Ref) -> Any:
    return op.inputs[1] if op.inputs[0] == value else op.inputs[0]
