"""A jaxpr as one flat list of primitive operations.

Calls (``jit``, ``remat``, ``custom_jvp`` and whatever else merely wraps a jaxpr) are
inlined, operations that no output needs are dropped. Loops, branches and sharded
regions stay as single opaque operations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from linjax.graph import compat
from linjax.graph.maps import Part
from linjax.program.flat import Const, Op, Operand, Ref, callee, needed

__all__ = ["Const", "Cut", "Op", "Operand", "Program", "Ref", "callee", "needed", "record"]


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
                own_mesh = compat.context(eqn)
                ops.append(Op(eqn.primitive, eqn.params, tuple(operands), outputs, custom,
                              None, own_mesh))  # fmt: skip
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
