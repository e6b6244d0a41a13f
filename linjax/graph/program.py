"""A jaxpr as one flat list of primitive operations.

Calls (``jit``, ``remat``, ``custom_jvp`` and whatever else merely wraps a jaxpr) are
inlined, operations that no output needs are dropped. Loops, branches and sharded
regions stay as single opaque operations.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from linjax.graph import compat
from linjax.graph.maps import Part

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


class Ref(NamedTuple):
    """A value of the program, by number."""

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


class Op(NamedTuple):
    """One primitive applied to operands.

    ``custom`` says that the operation stood inside a function with its own derivative.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Operand, ...]
    outputs: tuple[Ref, ...]
    custom: bool

    @property
    def name(self) -> str:
        """Name of the primitive."""
        return self.primitive.name

    def bind(self, *values: Any, **changed: Any) -> tuple[Any, ...]:
        """Applies the primitive to values, with some of its parameters changed."""
        return compat.bind(self.primitive, {**self.params, **changed}, values)


class Cut(NamedTuple):
    """Along which axis a leaf of the pytree is cut, and which part of it a value is."""

    axis: int
    part: Part


class Program(NamedTuple):
    """A function of parameters and inputs as a list of operations.

    Attributes:
      ops: the operations, in an order in which they can be executed.
      leaves: one value per parameter leaf, in the pytree's order; several for one that is cut.
      inputs: one value per input leaf.
      outputs: the results.
      avals: shape and dtype of every value, by its number.
      out_tree: structure of the function's result.
      cuts: by number of a leaf's value, which part of the leaf it is, for those that are cut.
    """

    ops: tuple[Op, ...]
    leaves: tuple[Ref, ...]
    inputs: tuple[Ref, ...]
    outputs: tuple[Operand, ...]
    avals: dict[int, Any]
    out_tree: Any
    cuts: dict[int, Cut]

    def shape(self, operand: Operand) -> tuple[int, ...]:
        """Shape of an operand."""
        return operand.shape if isinstance(operand, Const) else self.avals[operand.id].shape

    def part(self, leaf: int) -> Part:
        """Which part of a leaf of the pytree a leaf of the program is."""
        cut = self.cuts.get(self.leaves[leaf].id)
        return Part() if cut is None else cut.part

    def readers(self) -> dict[int, list[int]]:
        """Indices of the operations that read each value; −1 stands for the outputs."""
        table: dict[int, list[int]] = {}
        for index, op in enumerate(self.ops):
            for operand in op.inputs:
                if isinstance(operand, Ref):
                    table.setdefault(operand.id, []).append(index)
        for operand in self.outputs:
            if isinstance(operand, Ref):
                table.setdefault(operand.id, []).append(-1)
        return table

    def makers(self) -> dict[int, Op]:
        """The operation that makes each value."""
        return {out.id: op for op in self.ops for out in op.outputs}

    def data(self) -> frozenset[int]:
        """Numbers of the values that depend on an input."""
        known = {ref.id for ref in self.inputs}
        for op in self.ops:
            if any(isinstance(o, Ref) and o.id in known for o in op.inputs):
                known.update(ref.id for ref in op.outputs)
        return frozenset(known)


def record(apply_fn: Callable[..., Any], params: Any, inputs: tuple[Any, ...]) -> Program:
    """Traces ``apply_fn(params, *inputs)`` into a :class:`Program`."""
    closed, out_shape = jax.make_jaxpr(apply_fn, return_shape=True)(params, *inputs)
    count = len(jax.tree.leaves(params))
    avals: dict[int, Any] = {}
    ops: list[Op] = []

    def fresh(var: Any) -> Ref:
        ref = Ref(len(avals))
        avals[ref.id] = var.aval
        return ref

    def inline(jaxpr: Any, consts: Any, arguments: list[Operand], custom: bool) -> list[Operand]:
        env: dict[Any, Operand] = dict(zip(jaxpr.constvars, map(Const, consts), strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Operand:
            if isinstance(atom, compat.Literal):
                return Const(np.asarray(atom.val, jax.dtypes.result_type(atom.aval)))
            return env[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            body = callee(eqn)
            if body is not None:
                own = custom or eqn.primitive.name.startswith("custom_")
                results = inline(body.jaxpr, body.consts, operands, own)
                env.update(zip(eqn.outvars, results, strict=True))
            else:
                outputs = tuple(fresh(var) for var in eqn.outvars)
                env.update(zip(eqn.outvars, outputs, strict=True))
                ops.append(Op(eqn.primitive, eqn.params, tuple(operands), outputs, custom))
        return [read(atom) for atom in jaxpr.outvars]

    arguments = [fresh(var) for var in closed.jaxpr.invars]
    outputs = tuple(inline(closed.jaxpr, closed.consts, list(arguments), False))
    return Program(
        ops=needed(ops, outputs),
        leaves=tuple(arguments[:count]),
        inputs=tuple(arguments[count:]),
        outputs=outputs,
        avals=avals,
        out_tree=jax.tree.structure(out_shape),
        cuts={},
    )


def callee(eqn: Any) -> compat.ClosedJaxpr | None:
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


def needed(ops: list[Op], outputs: tuple[Operand, ...]) -> tuple[Op, ...]:
    """Drops operations whose results nobody reads."""
    wanted = {o.id for o in outputs if isinstance(o, Ref)}
    kept: list[Op] = []
    for op in reversed(ops):
        if any(ref.id in wanted for ref in op.outputs):
            kept.append(op)
            wanted.update(o.id for o in op.inputs if isinstance(o, Ref))
    return tuple(reversed(kept))
