"""Reading a program: the axes of all its values, and what each operation does to them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.rules import RULES
from linjax.dims.rules.rule import Result, View, fresh
from linjax.dims.space import HINTS, IS_INPUT, IS_OUTPUT, OPAQUE, Axes, freeze, unify
from linjax.dims.values import Role, Source, Touch, Value
from linjax.program.flat import Const, Op, Operand, Program, Ref

# Operations that show a leaf's entries laid out otherwise, or cast.
_VIEWS = frozenset(
    (
        "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "copy", "copy_p",
        "name", "stop_gradient", "rev", "sharding_constraint", "optimization_barrier", "slice",
        "split", "convert_element_type", "pvary", "reshard", "device_put",
    )
)  # fmt: skip


class Survey(NamedTuple):
    """A program with its dimensions.

    Attributes:
      program: the program; its first inputs are the parameter leaves.
      leaves: axes of every parameter leaf.
      values: by number of a value.
      constants: axes of constant operands, by number of the operation's first result and by
        the operand's place.
      touches: what operations do to dimensions; an operation is named by its first result.
      loops: axes of the scans that an operation stands in, outermost first.
      makers: the operation that makes each value.
    """

    program: Program
    leaves: tuple[Axes, ...]
    values: dict[int, Value]
    constants: dict[tuple[int, int], Axes]
    touches: list[Touch]
    loops: dict[int, Axes]
    makers: dict[int, Op]

    def axes(self, op: Op, place: int) -> Axes:
        """Axes of an operation's operand."""
        operand = op.inputs[place]
        if isinstance(operand, Ref):
            return self.values[operand.id].axes
        return self.constants[op.outputs[0].id, place]

    def value(self, op: Op, place: int) -> Value:
        """What is known of an operation's operand."""
        operand = op.inputs[place]
        if isinstance(operand, Ref):
            return self.values[operand.id]
        return _constant(operand, self.constants[op.outputs[0].id, place])


def survey(program: Program, leaves: int) -> Survey:
    """Finds the axes of all values of a network.

    Args:
      program: the network's function; parameter leaves are its first inputs.
      leaves: the number of these.
    """
    found = Survey(program, (), {}, {}, [], {}, {})
    for k, ref in enumerate(program.inputs):
        axes = tuple(map(fresh, program.avals[ref.id].shape))
        source, leaf = (Source.PARAMETER, k) if k < leaves else (Source.DATA, None)
        found.values[ref.id] = Value(axes, (True,) * len(axes), source, leaf)
        if leaf is None:
            for axis in axes:
                freeze(axis, IS_INPUT)
    _Reader(found).read(program, ())
    for operand in program.outputs:
        if isinstance(operand, Ref):
            for axis in found.values[operand.id].axes:
                freeze(axis, IS_OUTPUT)
    return found._replace(leaves=tuple(found.values[r.id].axes for r in program.inputs[:leaves]))


class _Reader:
    """Goes through the operations in order, and fills a survey."""

    def __init__(self, found: Survey) -> None:
        self.found = found

    def read(self, program: Program, loops: Axes) -> None:
        for op in program.ops:
            number = op.outputs[0].id
            self.found.loops[number] = loops
            self.found.makers.update({ref.id: op for ref in op.outputs})
            ins = tuple(self.operand(number, k, o) for k, o in enumerate(op.inputs))
            if op.scan is not None:
                self.scan(op, ins, loops)
                continue
            shapes = tuple(program.avals[ref.id].shape for ref in op.outputs)
            view = View(op, number, ins, shapes, self.found.touches)
            source = max((v.source for v in ins), default=Source.CONSTANT)
            leaf = _leaf(op, ins, program)
            zero = op.name in _VIEWS and all(v.zero for v in ins)
            for ref, result in zip(op.outputs, _results(view), strict=True):
                varies = result.varies or (True,) * len(result.axes)
                self.found.values[ref.id] = Value(result.axes, varies, source, leaf, zero)

    def operand(self, number: int, place: int, operand: Operand) -> Value:
        if isinstance(operand, Ref):
            return self.found.values[operand.id]
        axes = tuple(map(fresh, operand.shape))
        self.found.constants[number, place] = axes
        return _constant(operand, axes)

    def scan(self, op: Op, ins: tuple[Value, ...], loops: Axes) -> None:
        """Reads a body once: what it carries keeps its axes, what it runs over has one less."""
        body, values = op.scan.body, self.found.values
        fixed = op.scan.consts + op.scan.carry
        length = fresh(op.scan.length)
        freeze(length, "the layers of a scan")
        source = max((v.source for v in ins), default=Source.CONSTANT)
        for k, (ref, value) in enumerate(zip(body.inputs, ins, strict=True)):
            if k >= fixed:
                unify(value.axes[0], length)
                value = value._replace(axes=value.axes[1:], varies=value.varies[1:])
            elif k >= op.scan.consts:
                value = self.carried(op, value, source)
            values[ref.id] = value
        self.read(body, (*loops, length))
        number = op.outputs[0].id
        for k, (ref, own) in enumerate(zip(op.outputs, body.outputs, strict=True)):
            inside = self.operand(number, -1 - k, own)
            axes = inside.axes
            if k < op.scan.carry:
                for a, b in zip(ins[op.scan.consts + k].axes, axes, strict=True):
                    unify(a, b)
            else:
                axes = (length, *axes)
            values[ref.id] = Value(axes, (True,) * len(axes), max(source, inside.source))

    def carried(self, op: Op, start: Value, source: Source) -> Value:
        """What a scan carries, which starts as some value."""
        if source is Source.DATA:
            still = (a for n, a in enumerate(start.axes) if not start.turns(n))
            self.found.touches.extend(Touch(op.outputs[0].id, Role.SCALED, a) for a in still)
        return Value(start.axes, (True,) * len(start.axes), source)


def _results(view: View) -> list[Result]:
    rule = RULES.get(view.op.name)
    if rule is not None:
        return rule.axes(view)
    results = [Result(tuple(map(fresh, shape))) for shape in view.shapes]
    for axes in (*(v.axes for v in view.ins), *(r.axes for r in results)):
        for axis in axes:
            reason = f"{view.op.name}, {OPAQUE}"
            view.stay(axis, HINTS.get(view.op.name, reason))
    return results


def _constant(operand: Const, axes: Axes) -> Value:
    value = operand.value
    varies = tuple(_differs(value, n) for n in range(len(axes)))
    return Value(axes, varies, Source.CONSTANT, zero=is_zero(value))


def _differs(value: object, axis: int) -> bool:
    """Whether a constant's entries differ along an axis."""
    try:
        array = np.asarray(value)
    except Exception:  # a tracer, or a random key: nothing is known
        return True
    if array.shape[axis] < 2:
        return False
    first = np.take(array, [0], axis=axis)
    return not bool(np.all(array == first))


def is_zero(value: object) -> bool:
    """Whether a constant is zero everywhere."""
    try:
        return not np.any(np.asarray(value))
    except Exception:  # a tracer, or a random key: nothing is known
        return False


def _leaf(op: Op, ins: Sequence[Value], program: Program) -> int | None:
    """The leaf that an operation's result is a view of."""
    if op.name not in _VIEWS or ins[0].source is not Source.PARAMETER or len(op.outputs) > 1:
        return ins[0].leaf if op.name == "split" and ins else None
    refs = [o for o in op.inputs[:1] if isinstance(o, Ref)]
    if op.name == "convert_element_type":
        dtypes = [program.avals[ref.id].dtype for ref in (*refs, *op.outputs)]
        if not all(map(_plain, dtypes)):
            return None  # what rounding to eight bits leaves isn't what a refit wants
    if op.name == "broadcast_in_dim":
        before, after = (math.prod(program.avals[r.id].shape) for r in (*refs, *op.outputs))
        if before != after:
            return None
    return ins[0].leaf


def _plain(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating)) and jnp.finfo(dtype).bits >= 16
