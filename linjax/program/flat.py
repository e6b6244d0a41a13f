"""A jaxpr as one flat list of primitive operations.

Calls (``jit``, ``remat``, ``custom_jvp`` and whatever else merely wraps a jaxpr) are inlined,
operations that no output needs are dropped, and what depends on constants alone is evaluated.
The body of a ``scan`` is a program of its own; other loops, branches and sharded regions stay
single opaque operations.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from linjax.program import compat
from linjax.program.plain import joined, plain
from linjax.program.traced import as_traced

# Parameters that only equations with a meaning beyond "evaluate this jaxpr once" have:
# scan, while, cond, shard_map, pallas_call, custom_vjp (whose derivative must not be lost).
_CONTROL = {
    "length",
    "num_carry",
    "cond_jaxpr",
    "body_jaxpr",
    "branches",
    "mesh",
    "grid_mapping",
    "fwd_jaxpr_thunk",
}
PLACES = frozenset(("sharding_constraint", "reshard", "device_put", "mesh_cast"))
"""Operations that say where values are, and change none."""
FOLDED = 1 << 22
"""Largest number of entries of a constant that is evaluated when traced."""
FEW = 1 << 16
"""Likewise for what is made of nothing: counted positions."""


class Ref(NamedTuple):
    """A value of the program, by number; numbers are unique over all nested programs."""

    id: int


@dataclasses.dataclass(frozen=True, eq=False)
class Const:
    """A constant operand: a literal, or a value captured by the traced function."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the constant."""
        return tuple(getattr(self.value, "shape", ()))


Operand = Ref | Const
AnyOp = TypeVar("AnyOp", bound=Any)


class Scan(NamedTuple):
    """What a ``scan`` runs again and again.

    Attributes:
      body: a program of constants, carried values and slices, in this order.
      consts: number of inputs that are the same in every step.
      carry: number of inputs that each step hands to the next, its first outputs.
      length: number of steps.
      reverse: whether they run from the last slice to the first.
    """

    body: "Program"
    consts: int
    carry: int
    length: int
    reverse: bool


class Op(NamedTuple):
    """One primitive applied to operands.

    ``custom`` says that the operation stood inside a function with its own derivative, ``context``
    which mesh the function had set for it, where it had.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Operand, ...]
    outputs: tuple[Ref, ...]
    custom: bool = False
    scan: Scan | None = None
    context: Any = None

    @property
    def name(self) -> str:
        """Name of the primitive."""
        return self.primitive.name

    def bind(self, *values: Any, **changed: Any) -> tuple[Any, ...]:
        """Applies the primitive to values, with some of its parameters changed."""
        with self.within():
            return compat.bind(self.primitive, {**self.params, **changed}, values)

    def within(self) -> AbstractContextManager[Any]:
        """The mesh that the function set for the operation, for what is done in its place."""
        return compat.within(self.context)


class Program(NamedTuple):
    """A function of inputs as a list of operations.

    Attributes:
      ops: the operations, in an order in which they can be executed.
      inputs: one value per input leaf; of a whole network, the parameters' come first.
      outputs: the results.
      avals: shape and dtype of every value, by its number; shared with nested programs.
    """

    ops: tuple[Op, ...]
    inputs: tuple[Ref, ...]
    outputs: tuple[Operand, ...]
    avals: dict[int, Any]

    def shape(self, operand: Operand) -> tuple[int, ...]:
        """Shape of an operand."""
        return operand.shape if isinstance(operand, Const) else self.avals[operand.id].shape

    def takers(self) -> dict[int, list[Op]]:
        """By value, the operations that take it, each as often as it does."""
        found: dict[int, list[Op]] = {}
        for op in self.all_ops():
            for operand in op.inputs:
                if isinstance(operand, Ref):
                    found.setdefault(operand.id, []).append(op)
        return found

    def all_ops(self) -> Iterator[Op]:
        """Yields the operations, those of a scan's body before the scan itself."""
        for op in self.ops:
            if op.scan is not None:
                yield from op.scan.body.all_ops()
            yield op


def record(function: Callable[..., Any], *arguments: Any) -> tuple[Program, Any]:
    """Traces ``function(*arguments)``; returns the program and the structure of its result."""
    with as_traced():  # by a function that no trace is remembered of
        traced = jax.make_jaxpr(lambda *given: function(*given), return_shape=True)
        closed, out_shape = traced(*arguments)
    avals: dict[int, Any] = {}
    program = _Recorder(avals).program(closed.jaxpr, closed.consts)
    return program, jax.tree.structure(out_shape)


class _Recorder:
    """Numbers values and lists operations; ``avals`` grows with them."""

    def __init__(self, avals: dict[int, Any]) -> None:
        self.avals = avals
        self.ops: list[Op] = []

    def fresh(self, var: Any) -> Ref:
        ref = Ref(len(self.avals))
        self.avals[ref.id] = var.aval
        return ref

    def program(self, jaxpr: Any, consts: Sequence[Any]) -> Program:
        inputs = tuple(self.fresh(var) for var in jaxpr.invars)
        outputs = tuple(self.inline(jaxpr, consts, inputs, False))
        return Program(needed(self.ops, outputs), inputs, outputs, self.avals)

    def inline(
        self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Operand], custom: bool
    ) -> list[Operand]:
        """Lists a jaxpr's operations on some arguments; returns its results."""
        env: dict[Any, Operand] = dict(zip(jaxpr.constvars, map(Const, consts), strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Operand:
            if isinstance(atom, compat.Literal):
                return Const(np.asarray(atom.val, jax.dtypes.result_type(atom.aval)))
            return env[atom]

        for eqn in jaxpr.eqns:
            operands = tuple(read(atom) for atom in eqn.invars)
            known = tuple(o.value if isinstance(o, Const) else None for o in operands)
            body = callee(eqn) or plain(eqn, known)
            if body is not None:
                own = custom or eqn.primitive.name.startswith("custom_")
                results: Sequence[Operand] = self.inline(body.jaxpr, body.consts, operands, own)
            else:
                results = self.operation(eqn, operands, custom)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def operation(self, eqn: Any, operands: tuple[Operand, ...], custom: bool) -> Sequence[Operand]:
        if eqn.primitive.name == "concatenate":
            operands = tuple(operands[n] for n in joined(eqn))
            if len(operands) == 1:
                return operands
        known = _evaluated(eqn, operands)
        if known is not None:
            return known
        scan = None
        if eqn.primitive.name == "scan":
            closed = eqn.params["jaxpr"]
            consts, carry = compat.scan_counts(eqn.params)
            inner = _Recorder(self.avals).program(closed.jaxpr, closed.consts)
            length, reverse = eqn.params["length"], eqn.params["reverse"]
            scan = Scan(inner, consts, carry, length, reverse)
        outputs = tuple(self.fresh(var) for var in eqn.outvars)
        mesh = compat.context(eqn)
        self.ops.append(Op(eqn.primitive, eqn.params, operands, outputs, custom, scan, mesh))
        return outputs


def _evaluated(eqn: Any, operands: tuple[Operand, ...]) -> tuple[Const, ...] | None:
    """Results of an operation on constants, so that their entries can go with coordinates.

    What has more entries than its operands stays an operation (spreads, outer products of
    positions and frequencies): its axes may have other sizes later.
    """
    known = tuple(o for o in operands if isinstance(o, Const))
    if len(known) < len(operands) or eqn.effects:
        return None
    if eqn.primitive.name in ("scan", "while", "cond") or eqn.primitive.name.startswith("random"):
        return None
    shapes = [var.aval.shape for var in eqn.outvars]
    if not all(isinstance(n, int) for shape in shapes for n in shape):
        return None
    entries = sum(math.prod(shape) for shape in shapes)
    largest = max((math.prod(o.shape) for o in known), default=FEW)
    if entries > min(FOLDED, max(largest, 1)):
        return None
    with jax.ensure_compile_time_eval():
        try:
            results = compat.bind(eqn.primitive, eqn.params, tuple(o.value for o in known))
        except Exception:  # what can't be evaluated now is evaluated when it runs
            return None
    return tuple(Const(value) for value in results)


def callee(eqn: Any) -> Any:
    """Returns the jaxpr that an equation merely calls, None if it does anything else.

    Recognised by what the equation holds, not by its name: names change between
    versions of JAX, the signature of a plain call doesn't.
    """
    if _CONTROL & set(eqn.params):
        return None
    bodies = [v for v in eqn.params.values() if isinstance(v, compat.ClosedJaxpr | compat.Jaxpr)]
    if len(bodies) != 1:
        return None
    body = bodies[0]
    closed = compat.ClosedJaxpr(body, ()) if isinstance(body, compat.Jaxpr) else body
    if closed.jaxpr.constvars and not closed.consts:
        return None

    def types(atoms: Any) -> list[Any]:
        return [(atom.aval.shape, atom.aval.dtype) for atom in atoms]

    same_in = types(closed.jaxpr.invars) == types(eqn.invars)
    same_out = types(closed.jaxpr.outvars) == types(eqn.outvars)
    return closed if same_in and same_out else None


def needed(ops: Sequence[AnyOp], outputs: Sequence[Operand]) -> tuple[AnyOp, ...]:
    """Drops operations whose results nobody reads."""
    wanted = {o.id for o in outputs if isinstance(o, Ref)}
    kept: list[AnyOp] = []
    for op in reversed(ops):
        if any(ref.id in wanted for ref in op.outputs):
            kept.append(op)
            wanted.update(o.id for o in op.inputs if isinstance(o, Ref))
    return tuple(reversed(kept))
