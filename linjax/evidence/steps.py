"""Values on whose way to the outputs derivatives are lost: behind roundings, comparisons, choices.

What takes floats and gives whole numbers or truths has no derivative, nor has what rounds; a
function with a derivative of its own (``custom_vjp``) has the one that its author wants, see
:func:`linjax.program.steps.computed`. A choice between two functions that meet where it is made
(leaky rectifiers, ELU) loses nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.dims.network import Network
from linjax.dims.remembered import remembered
from linjax.dims.rules import elementwise
from linjax.program.flat import Const, Op, Operand, Program, Ref
from linjax.program.steps import COMPARED, FLAT, bodies, computed, has_own, names

SPREAD = frozenset(("broadcast_in_dim", "reshape", "squeeze", "expand_dims"))
"""Operations that leave a number what it is."""
NEAR = 1e-5
"""How near functions come to each other where they meet, relative to their values."""
DEEP = 50
"""Operations in a row that such functions are made of at most."""


@remembered
def stepped(network: Network) -> frozenset[int]:
    """Numbers of the values on whose way to the outputs there is a step."""
    program = network.layout.program
    feeds, takers = _feeds(program), program.takers()
    outputs = {o.id for o in program.outputs if isinstance(o, Ref) and _is_float(program, o)}
    live = _reached(outputs, feeds)
    makers = {ref.id: op for op in program.all_ops() for ref in op.outputs}
    steps = (
        op for op in program.all_ops()
        if any(ref.id in live for ref in op.outputs) and _is_step(op, program, takers, makers)
    )  # fmt: skip
    return frozenset(
        _reached((o.id for op in steps for o in op.inputs if isinstance(o, Ref)), feeds)
    )


def _feeds(program: Program) -> dict[int, set[int]]:
    """By value, those that it is made of."""
    found: dict[int, set[int]] = {}

    def add(made: Iterable[Operand], of: Iterable[Operand]) -> None:
        sources = {o.id for o in of if isinstance(o, Ref)}
        for operand in made:
            if isinstance(operand, Ref):
                found.setdefault(operand.id, set()).update(sources)

    for op in program.all_ops():
        if op.scan is None:
            add(op.outputs, op.inputs)
            continue
        body = op.scan.body
        handed = body.inputs[op.scan.consts :][: op.scan.carry]
        pairs = zip(
            (*body.inputs, *op.outputs, *handed),
            (*op.inputs, *body.outputs, *body.outputs[: op.scan.carry]),
            strict=True,
        )
        for made, of in pairs:
            add((made,), (of,))
    return found


def _reached(start: Iterable[int], feeds: Mapping[int, set[int]]) -> set[int]:
    """Values that some are made of, and these."""
    found, todo = set[int](), list(start)
    while todo:
        now = todo.pop()
        if now not in found:
            found.add(now)
            todo.extend(feeds.get(now, ()))
    return found


def _is_step(
    op: Op, program: Program, takers: Mapping[int, list[Op]], makers: Mapping[int, Op]
) -> bool:
    """Whether something about an operation's operands is lost to derivatives."""
    if op.scan is not None or not any(_is_float(program, o) for o in op.inputs):
        return False
    if has_own(op.params):
        return computed(op.params) is None
    if op.name in FLAT or _inside(op.params):
        return True
    lost = [r for r in op.outputs if not _is_float(program, r) and r.id in takers]
    if not lost or op.name == "is_finite" or (op.name == "ne" and op.inputs[0] == op.inputs[1]):
        return False  # what guards against values that aren't numbers
    choices = takers[lost[0].id]
    return not (
        op.name in COMPARED and all(c.name == "select_n" and _meet(op, c, makers) for c in choices)
    )


def _inside(params: Mapping[str, Any]) -> bool:
    """Whether something that an operation runs is a step."""
    inner = (getattr(body, "jaxpr", body) for body in bodies(params))
    return any(name in FLAT | COMPARED for body in inner for name in names(body))


def _meet(compared: Op, choice: Op, makers: Mapping[int, Op]) -> bool:
    """Whether what a comparison chooses from is the same where it turns."""
    value, other = compared.inputs
    if isinstance(value, Const):
        value, other = other, value
    if not isinstance(value, Ref) or len(choice.inputs) != 3:
        return False
    border = _at(other, {}, makers)
    if border is None:
        return False
    low, high = (_at(o, {value.id: border}, makers) for o in choice.inputs[1:])
    return (
        low is not None
        and high is not None
        and bool(np.abs(high - low) <= NEAR * (1 + np.abs(high)))
    )


def _at(operand: Operand, known: dict[int, Any], makers: Mapping[int, Op], left: int = DEEP) -> Any:
    """An operand as a number, given others; None where it depends on more, or isn't one number."""
    if isinstance(operand, Const):
        entries = np.unique(np.asarray(operand.value))
        return entries[0] if entries.size == 1 else None
    if operand.id not in known:
        known[operand.id], op = None, makers.get(operand.id)
        if op is None or not left or op.name not in SPREAD | elementwise.RULES.keys():
            return None
        values = []
        for other in op.inputs:
            values.append(_at(other, known, makers, left - 1))
            if values[-1] is None:
                return None
        known[operand.id] = values[0] if op.name in SPREAD else np.asarray(op.bind(*values)[0])
    return known[operand.id]


def _is_float(program: Program, operand: Operand) -> bool:
    dtype = operand.value.dtype if isinstance(operand, Const) else program.avals[operand.id].dtype
    return jnp.issubdtype(dtype, jnp.inexact)
