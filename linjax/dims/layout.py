"""A network's dimensions, laid out for running: what stays of a survey."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.space import Axis
from linjax.dims.span import Numbering, Span, Spans
from linjax.dims.survey import survey
from linjax.dims.values import Role, Source
from linjax.program.flat import Const, Op, Operand, Program, Ref

LAYOUT = frozenset({"reshape", "transpose", "broadcast_in_dim", "squeeze"})
"""Operations that lay entries out otherwise."""
LAID_OUT = ("reshape", "transpose", "squeeze", "convert_element_type", "copy")
"""Operations that a product's result may go through before something is done to its units."""
SAME = frozenset({"copy", "copy_p", "name", "stop_gradient", "pvary"})
"""Operations that leave a value as it is."""


class Held(NamedTuple):
    """A value of the program.

    Attributes:
      spans: its axes.
      varies: which of them its entries differ along.
      source: what it depends on.
      leaf: number of the parameter leaf that it is a view of, None if of none.
      read: dimensions that a product sums over, where it is (on its way to) a kernel.
    """

    spans: Spans
    varies: tuple[bool, ...]
    source: Source
    leaf: int | None
    read: frozenset[int] = frozenset()

    def dims(self) -> set[int]:
        """The dimensions of its axes."""
        return {d for span in self.spans for d in span.dims()}

    @property
    def read_axis(self) -> int:
        """The first axis along which a kernel reads."""
        return next(n for n, span in enumerate(self.spans) if self.read & set(span.dims()))

    def differing(self) -> set[int]:
        """The dimensions along whose axes data differ from entry to entry."""
        if self.source is not Source.DATA:
            return set()
        pairs = zip(self.spans, self.varies, strict=True)
        return {d for span, varies in pairs if varies for d in span.dims()}


class Mark(NamedTuple):
    """What an operation, named by its first result, does to a dimension; see ``Role``."""

    op: int
    role: Role
    operand: int


class Layout(NamedTuple):
    """A program with the dimensions of all values.

    Attributes:
      program: the program; parameter leaves are its first inputs.
      out_tree: structure of its result.
      leaves: axes of every parameter leaf.
      values: by number of a value.
      constants: by operation and operand.
      marks: by dimension, what operations do to it.
      reasons: by dimension, why its coordinates must stay.
      steps: axes of the scans that an operation stands in, outermost first.
      makers: the operation that makes each value.
      traced: sizes of all dimensions.
      users: by dimension, the operations that make it or take data with coordinates of it.
    """

    program: Program
    out_tree: jax.tree_util.PyTreeDef
    leaves: tuple[Spans, ...]
    values: dict[int, Held]
    constants: dict[tuple[int, int], Held]
    marks: dict[int, tuple[Mark, ...]]
    reasons: dict[int, tuple[str, ...]]
    steps: dict[int, Spans]
    makers: dict[int, Op]
    traced: dict[int, int]
    users: dict[int, tuple[Op, ...]]

    def operand(self, op: Op, place: int) -> Held:
        """An operation's operand."""
        own = op.inputs[place]
        return self.values[own.id] if isinstance(own, Ref) else self.constants[number(op), place]

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """The network's inputs, without its parameters."""
        return self.program.inputs[len(self.leaves) :]


def number(op: Op) -> int:
    """The number that names an operation: that of its first result."""
    return op.outputs[0].id


def lay_out(program: Program, count: int, out_tree: jax.tree_util.PyTreeDef) -> Layout:
    """Finds the dimensions of all values of a network.

    Args:
      program: the network's function.
      count: the number of its parameter leaves, the program's first inputs.
      out_tree: structure of its result.
    """
    found, names = survey(program, count), Numbering()
    leaves = tuple(tuple(map(names.span, axes)) for axes in found.leaves)
    values = {
        key: Held(tuple(map(names.span, v.axes)), v.varies, v.source, v.leaf)
        for key, v in found.values.items()
    }
    constants = {}
    for op in found.program.all_ops():
        for place, operand in enumerate(op.inputs):
            if not isinstance(operand, Ref):
                v = found.value(op, place)
                spans = tuple(map(names.span, v.axes))
                constants[number(op), place] = Held(spans, v.varies, v.source, None)
    marks: dict[int, list[Mark]] = {}
    for touch in found.touches:
        for dim in names.span(touch.axis).dims():
            marks.setdefault(dim, []).append(Mark(touch.op, touch.role, touch.operand))
    for key, read in _reading(found.program, marks, values).items():
        values[key] = values[key]._replace(read=frozenset(read))
    own = {d for spans in leaves for s in spans for d in s.dims()}
    steps = {key: tuple(_steps(names, a, own) for a in axes) for key, axes in found.loops.items()}
    return Layout(
        program=found.program,
        out_tree=out_tree,
        leaves=leaves,
        values=values,
        constants=constants,
        marks={dim: tuple(dict.fromkeys(own)) for dim, own in marks.items()},
        reasons={n: tuple(atom.reasons) for n, atom in enumerate(names.atoms)},
        steps=steps,
        makers=found.makers,
        traced={n: atom.size for n, atom in enumerate(names.atoms)},
        users=_users(found.program, marks, values),
    )


def _steps(names: Numbering, axis: Axis, own: set[int]) -> Span:
    """The axis of a scan's steps: one of its own where its results are cut, as at the last.

    Where leaves are cut likewise steps stay what they are made of.
    """
    span = names.span(axis)
    return span if span.dim >= 0 or own & set(span.dims()) else names.whole(axis)


def _users(
    program: Program, marks: dict[int, list[Mark]], values: dict[int, Held]
) -> dict[int, tuple[Op, ...]]:
    made: dict[int, set[int]] = {}
    for dim, own in marks.items():
        for mark in own:
            if mark.role is Role.MADE:
                made.setdefault(mark.op, set()).add(dim)
    differing = {key: held.differing() for key, held in values.items()}
    found: dict[int, list[Op]] = {}
    for op in program.all_ops():
        refs = [o.id for o in op.inputs if isinstance(o, Ref)]
        for dim in made.get(number(op), set()).union(*(differing[r] for r in refs)):
            found.setdefault(dim, []).append(op)
    return {dim: tuple(ops) for dim, ops in found.items()}


def _backwards(program: Program) -> Iterator[Op]:
    """Yields the operations, last ones first; those of a scan's body before the scan itself."""
    for op in reversed(program.ops):
        if op.scan is not None:
            yield from _backwards(op.scan.body)
        yield op


def _reading(
    program: Program, marks: dict[int, list[Mark]], values: dict[int, Held]
) -> dict[int, set[int]]:
    """By value of the parameters, the dimensions that a product with it sums over."""
    sums: dict[int, set[int]] = {}
    for dim, own in marks.items():
        for mark in own:
            if mark.role is Role.READ:
                sums.setdefault(mark.op, set()).add(dim)
    found: dict[int, set[int]] = {}
    for op in _backwards(program):
        refs = [o.id for o in op.inputs if isinstance(o, Ref)]
        if op.scan is not None:
            for outer, inner in zip(op.inputs, op.scan.body.inputs, strict=True):
                if isinstance(outer, Ref) and inner.id in found:
                    found.setdefault(outer.id, set()).update(found[inner.id])
            continue
        wanted = sums.get(number(op), set()).union(*(found.get(r.id, set()) for r in op.outputs))
        for ref in refs:
            if wanted and values[ref].source is Source.PARAMETER:
                found.setdefault(ref, set()).update(wanted & values[ref].dims())
    return found


def same_value(layout: Layout, a: Operand, b: Operand) -> bool:
    """Whether two operands are the same value, cast and laid out alike."""
    while a != b:
        if not isinstance(a, Ref) or not isinstance(b, Ref):
            return False
        x, y = layout.makers.get(a.id), layout.makers.get(b.id)
        if x is None or y is None or x.name not in LAYOUT | SAME | {"convert_element_type"}:
            return False
        if x.name != y.name or str(x.params) != str(y.params):
            return False
        a, b = x.inputs[0], y.inputs[0]
    return True


def constant(layout: Layout, operand: Operand) -> float | None:
    """The one number that a constant is, None where it is none, or nothing is known of it."""
    while isinstance(operand, Ref) and operand.id in layout.makers:
        maker = layout.makers[operand.id]
        if maker.name not in ("broadcast_in_dim", "reshape"):
            return None
        operand = maker.inputs[0]
    if not isinstance(operand, Const):
        return None
    try:
        value = np.asarray(operand.value)
    except Exception:  # a tracer, or a random key
        return None
    numbers = jnp.issubdtype(value.dtype, np.floating) or value.dtype.kind in "iu"
    if not value.size or not numbers:
        return None
    value = value.astype(np.float64)
    return float(value.flat[0]) if (value == value.flat[0]).all() else None
