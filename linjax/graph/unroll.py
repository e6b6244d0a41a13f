"""Unrolling scanned layers: one stacked kernel becomes one kernel a layer, which can fold."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from linjax.errors import StructureError
from linjax.graph import compat, program, pytree
from linjax.graph.divided import Divided
from linjax.graph.maps import Path

Array = Any


class Stack(NamedTuple):
    """A stacked parameter, taken apart: the layers' own, in order."""

    layers: tuple[Array, ...]

    def whole(self) -> Array:
        """The stacked array, for whatever reads it outside of a scan."""
        return jnp.stack(self.layers)


@dataclasses.dataclass(frozen=True, eq=False)
class Unrolled(Divided):
    """A function whose scans over stacked parameters run layer by layer.

    Attributes:
      apply_fn: the function with scans.
      template: its parameter pytree as shapes and dtypes.
      lengths: number of layers of each stacked leaf, by its path.
    """

    lengths: dict[Path, int]

    def count(self, path: Path) -> int | None:
        """Number of a stacked leaf's layers, None for a leaf that isn't stacked."""
        return self.lengths.get(path)

    def __call__(self, params: Any, *inputs: Any) -> Any:
        flat = pytree.flatten(params)
        arguments: list[Any] = []
        shapes = []
        for path, leaf in pytree.flatten(self.template).items():
            parts = [flat[p] for p in self.split(path)]
            arguments.append(Stack(tuple(parts)) if path in self.lengths else parts[0])
            shapes.append(jax.ShapeDtypeStruct(leaf.shape, jnp.result_type(parts[0])))
        tree = jax.tree.unflatten(jax.tree.structure(self.template), shapes)
        closed, out = jax.make_jaxpr(self.apply_fn, return_shape=True)(tree, *inputs)
        arguments += jax.tree.leaves(inputs)
        return jax.tree.unflatten(
            jax.tree.structure(out), _evaluate(closed.jaxpr, closed.consts, arguments)
        )


def unroll(apply_fn: Callable[..., Any], params: Any, *inputs: Any) -> tuple[Unrolled, Any]:
    """Unrolls layers that are scanned (``nn.scan``, ``nnx.scan``, ``jax.lax.scan``).

    A scan reads a stack of kernels, ``(layers, inputs, outputs)``, and all layers have the
    same widths. Unrolled, every layer has leaves of its own, ``ScanBlock_0/Dense_0/3/kernel``,
    and is folded by itself. Inputs and outputs stay as they are; compilation takes longer.

    Args:
      apply_fn: ``apply_fn(params, *inputs) -> outputs``.
      params: its parameters.
      *inputs: example inputs, arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      A function of other parameters that computes the same, and these parameters, a nested
      dict: what :func:`trace` takes.

    Raises:
      StructureError: if no parameter is scanned over.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> def apply(params, x):
      ...     layer = lambda h, w: (h + jax.nn.relu(h @ w["in"]) @ w["out"], None)
      ...     return jax.lax.scan(layer, x, params)[0]
      >>> params = {"in": jnp.ones((2, 3, 8)), "out": jnp.ones((2, 8, 3))}
      >>> flat_apply, flat_params = linjax.unroll(apply, params, jnp.ones((1, 3)))
      >>> net = linjax.trace(flat_apply, flat_params, jnp.ones((1, 3)))
      >>> [site.name for site in net.graph.sites]
      ['0/in', '1/in']
    """
    flat = pytree.flatten(params)
    closed = jax.make_jaxpr(apply_fn)(params, *inputs)
    scanned = _scanned(closed.jaxpr, set(range(len(flat))))
    lengths = {path: flat[path].shape[0] for i, path in enumerate(flat) if i in scanned}
    if not lengths:
        raise StructureError("nothing to unroll: no scan runs over a parameter's first axis")
    result = Unrolled(apply_fn, pytree.shapes_of(params), lengths)
    layers: pytree.Flat = {}
    for path, leaf in flat.items():
        parts = [leaf[i] for i in range(lengths[path])] if path in lengths else [leaf]
        layers |= dict(zip(result.split(path), parts, strict=True))
    return result, pytree.unflatten(layers, like=params)


def _scanned(jaxpr: Any, wanted: set[int]) -> set[int]:
    """Which of some arguments a scan runs over, in calls within calls, too."""
    place = {var: i for i, var in enumerate(jaxpr.invars) if i in wanted}
    found: set[int] = set()
    for eqn in jaxpr.eqns:
        places = [place.get(a) if isinstance(a, compat.Var) else None for a in eqn.invars]
        mine = {j for j, i in enumerate(places) if i is not None}
        body = program.callee(eqn)
        if not mine:
            continue
        if eqn.primitive.name == "scan":
            consts, carries = compat.scan_counts(eqn.params)
            inner = {j for j in mine if j < consts}
            found |= {places[j] for j in mine if j >= consts + carries}
            found |= {places[j] for j in _scanned(eqn.params["jaxpr"].jaxpr, inner)}
        elif body is not None:
            found |= {places[j] for j in _scanned(body.jaxpr, mine)}
    return found


def _evaluate(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a jaxpr, scans over stacks layer by layer."""
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, compat.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        stacked = any(isinstance(value, Stack) for value in values)
        body = program.callee(eqn) if stacked else None
        if body is not None:
            results = _evaluate(body.jaxpr, body.consts, values)
        elif stacked and eqn.primitive.name == "scan":
            results = _scan(eqn.params, values)
        else:
            plain = tuple(v.whole() if isinstance(v, Stack) else v for v in values)
            results = list(compat.bind(eqn.primitive, eqn.params, plain))
        env.update(zip(eqn.outvars, results, strict=True))
    outputs = [read(atom) for atom in jaxpr.outvars]
    return [v.whole() if isinstance(v, Stack) else v for v in outputs]


def _scan(params: dict[str, Any], values: list[Any]) -> list[Any]:
    """Runs a scan as a loop over its layers."""
    closed, length = params["jaxpr"], params["length"]
    consts, carries = compat.scan_counts(params)
    fixed, carry, xs = (
        values[:consts],
        values[consts : consts + carries],
        values[consts + carries :],
    )
    steps = range(length - 1, -1, -1) if params["reverse"] else range(length)
    made: dict[int, list[Any]] = {}
    for i in steps:
        now = [x.layers[i] if isinstance(x, Stack) else x[i] for x in xs]
        outputs = _evaluate(closed.jaxpr, closed.consts, [*fixed, *carry, *now])
        carry, made[i] = outputs[:carries], outputs[carries:]
    ys = [jnp.stack([made[i][j] for i in range(length)]) for j in range(len(made[0]))]
    return [*carry, *ys]
