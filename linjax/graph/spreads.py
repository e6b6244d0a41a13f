"""Values computed from parameters with one entry a unit: batch norm's factor, PReLU's slopes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from linjax.graph import activation, primitives
from linjax.graph.maps import Path, Term
from linjax.graph.program import Op, Operand, Program, Ref
from linjax.graph.views import Views, keeps_numbers, operand_id

EVALUATED: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum,
    "neg": np.negative, "sqrt": np.sqrt, "rsqrt": lambda x: 1.0 / np.sqrt(x), "exp": np.exp,
    "square": np.square,
}  # fmt: skip
"""Primitives that :func:`evaluate` knows."""

_SAME = frozenset({"convert_element_type", "copy", "stop_gradient"})


class Spread(NamedTuple):
    """A value with one entry a unit along one axis.

    Attributes:
      axis: the axis.
      width: number of units.
      leaves: indices of the parameter leaves that it is computed from.
      terms: the computation in postfix order, leaves by index in place of paths; None if it
        takes more than :data:`EVALUATED`.
    """

    axis: int
    width: int
    leaves: frozenset[int]
    terms: tuple[tuple[str, int, float], ...] | None


def find_spreads(program: Program, views: Views) -> dict[int, Spread]:
    """Returns all values of a program that hold one entry a unit, by number."""
    found: dict[int, Spread] = {}
    made = program.makers()
    for index, ref in enumerate(program.leaves):
        shape = program.shape(ref)
        long = [a for a, n in enumerate(shape) if n != 1]
        if shape and len(long) <= 1:
            axis = long[0] if long else len(shape) - 1
            found[ref.id] = Spread(axis, shape[axis], frozenset({index}), (("leaf", index, 0.0),))
    for op in program.ops:
        if any(isinstance(o, Ref) and o.id in found for o in op.inputs):
            spread = _through(op, program, found, made)
            if spread is not None:
                found[op.outputs[0].id] = spread
    return found


def _through(
    op: Op, program: Program, found: dict[int, Spread], made: dict[int, Op]
) -> Spread | None:
    if len(op.outputs) != 1:
        return None
    if op.name in primitives.VIEWS and op.name not in _SAME:
        spread = found[operand_id(op.inputs[0])]
        axis = _moved(op, program, spread.axis)
        return None if axis is None else spread._replace(axis=axis)
    if op.name not in primitives.ELEMENTWISE:
        return None
    mine = [found[o.id] for o in op.inputs if isinstance(o, Ref) and o.id in found]
    if len({(s.axis, s.width) for s in mine}) != 1:
        return None
    leaves = frozenset().union(*(s.leaves for s in mine))
    terms: list[tuple[str, int, float]] = []
    known = True
    for operand in op.inputs:
        if isinstance(operand, Ref) and operand.id in found:
            part = found[operand.id].terms
            known &= part is not None
            terms += part or ()
            continue
        value = activation.constant(program, operand)
        if value is None:
            return None
        terms.append(("constant", 0, float(value)))
    shape = program.shape(op.outputs[0])
    if len(shape) <= mine[0].axis or shape[mine[0].axis] != mine[0].width:
        return None
    name = op.name
    if name == "integer_pow" and op.params["y"] == 2:
        name = "square"
    if name not in _SAME:
        known &= name in EVALUATED
        terms.append((name, 0, 0.0))
    known &= keeps_numbers(program, made, op)
    return Spread(mine[0].axis, mine[0].width, leaves, tuple(terms) if known else None)


def _moved(op: Op, program: Program, axis: int) -> int | None:
    """Where the axis of units is behind a layout operation: all the others have one entry."""
    if op.name == "transpose":
        return int(op.params["permutation"].index(axis))
    return primitives.follow(op, program, axis)


def named(terms: tuple[tuple[str, int, float], ...], paths: list[Path]) -> tuple[Term, ...]:
    """Puts paths in place of leaves' indices."""
    return tuple(Term(op, paths[leaf] if op == "leaf" else (), value) for op, leaf, value in terms)


def evaluate(terms: tuple[Term, ...], leaves: dict[Path, np.ndarray]) -> np.ndarray:
    """Computes an operand from parameters, in float64, ``(units,)``."""
    stack: list[np.ndarray] = []
    for term in terms:
        if term.op == "leaf":
            stack.append(np.asarray(leaves[term.leaf]).astype(np.float64).reshape(-1))
        elif term.op == "constant":
            stack.append(np.asarray(term.value))
        else:
            function = EVALUATED[term.op]
            count = 1 if term.op in ("neg", "sqrt", "rsqrt", "exp", "square") else 2
            arguments = stack[-count:]
            del stack[-count:]
            stack.append(function(*arguments))
    (value,) = stack
    return value


def closure(program: Program, operands: list[Operand], found: dict[int, Spread]) -> set[int]:
    """Returns the numbers of all spread values that some operands are computed from."""
    made = program.makers()
    todo = [o.id for o in operands if isinstance(o, Ref) and o.id in found]
    seen: set[int] = set()
    while todo:
        ref = todo.pop()
        if ref in seen:
            continue
        seen.add(ref)
        if ref in made:
            inputs = made[ref].inputs
            todo += [o.id for o in inputs if isinstance(o, Ref) and o.id in found]
    return seen
