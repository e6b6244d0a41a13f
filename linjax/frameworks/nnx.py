"""NNX: a module goes in, and a folded network comes back as a module."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from linjax.errors import LinjaxError
from linjax.evidence.given import as_net
from linjax.net import Net, trace
from linjax.program import pytree
from linjax.program.pytree import Path

COLLECTIONS: dict[str, type[nnx.Variable]] = {
    "params": nnx.Param,
    "batch_stats": nnx.BatchStat,
    "cache": nnx.Cache,
    "intermediates": nnx.Intermediate,
}
"""What the collections of Linen's variables are in NNX."""


@dataclasses.dataclass(frozen=True, eq=False)
class Inference:
    """A module as a function of its parameters, in inference mode.

    Attributes:
      graphdef: the module without its arrays.
      method: what is called, ``method(module, *inputs)``.
      kinds: type of every variable, by path.
    """

    graphdef: Any
    method: Callable[..., Any]
    kinds: dict[Path, type[nnx.Variable]]

    def __call__(self, params: Any, *inputs: Any) -> Any:
        module = nnx.merge(self.graphdef, params)
        module.eval()  # of a copy: the module that was given stays as it is
        return self.method(module, *inputs)


def from_nnx(
    model: nnx.Module,
    *inputs: Any,
    method: str | Callable[..., Any] = "__call__",
) -> tuple[Net, Any]:
    """Traces an NNX module, in inference mode, and takes its parameters out.

    Dropout is off and batch norm uses its running statistics, whatever mode the module is
    in. Everything that the module holds (parameters, batch statistics, random keys) is in the
    pytree; a submodule that is used twice is in it once.

    Args:
      model: the module; it is not changed.
      *inputs: example inputs, arrays or ``jax.ShapeDtypeStruct``.
      method: what to trace: a method's name, or a function of the module and the inputs.

    Returns:
      The traced network and its parameters, the module's pure dict: what :func:`collect`,
      :func:`fold` and the others take. :func:`to_nnx` makes a module of the result.

    Raises:
      LinjaxError: if model is not an NNX module, or has no such method.

    Example:
      >>> import jax.numpy as jnp, linjax
      >>> from flax import nnx
      >>> class MLP(nnx.Module):
      ...     def __init__(self, rngs):
      ...         self.first, self.last = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)
      ...     def __call__(self, x):
      ...         return self.last(nnx.relu(self.first(x)))
      >>> net, params = linjax.from_nnx(MLP(nnx.Rngs(0)), jnp.ones((1, 3)))
      >>> [(site.name, site.width) for site in net.graph.sites], linjax.count(params)
      ([('first', 8)], 50)
    """
    if not isinstance(model, nnx.Module):
        raise LinjaxError(f"expected an nnx.Module, got {type(model).__name__}")
    called = getattr(type(model), method, None) if isinstance(method, str) else method
    if not callable(called):
        raise LinjaxError(f"{type(model).__name__} has no method {method!r}")
    graphdef, state = nnx.split(model)
    kinds = {tuple(map(str, path)): type(v) for path, v in nnx.to_flat_state(state)}
    params = nnx.to_pure_dict(state)
    return trace(Inference(graphdef, called, kinds), params, *inputs), params


class FoldedModule(nnx.Module):
    """A traced network with its parameters as an NNX module, made by :func:`to_nnx`.

    Its state has the paths of the parameter pytree. It computes the traced function: dropout
    is off and batch norm uses its statistics, also while it is trained.
    """

    def __init__(self, net: Net, params: Any):
        self._linjax_net = net
        _fill(self, pytree.unflatten(pytree.flatten(params)), (), _kinds(net))

    def __call__(self, *inputs: Any) -> Any:
        return self._linjax_net.apply(nnx.to_pure_dict(nnx.state(self)), *inputs)


class Part(nnx.Module):
    """A level of a parameter pytree."""


def to_nnx(net: Net, params: Any) -> FoldedModule:
    """Makes an NNX module of a traced network and its parameters, folded or not.

    The module is called like the network, trained with ``nnx.Optimizer`` and ``nnx.grad``,
    taken apart by ``nnx.split`` and saved like any other. Its variables have the types that
    they had in the module of :func:`from_nnx`; of Linen's variables, those that belong to
    their collections; else floating point arrays are ``nnx.Param``.

    Args:
      net: the traced network.
      params: its parameters, original or folded.

    Returns:
      A module with ``module(*inputs)`` equal to ``net.apply(params, *inputs)``. Its pure dict,
      ``nnx.to_pure_dict(nnx.state(module))``, goes back into every function of linjax.

    Raises:
      StructureError: if params doesn't fit the network, naming the path.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> x = jnp.array([[1.0, -1.0, 2.0]])
      >>> module = linjax.to_nnx(linjax.trace(apply, params, x), params)
      >>> module(x).tolist()
      [[3.0, 3.0]]
    """
    as_net(net)
    net.check(params)
    return FoldedModule(net, params)


def _kinds(net: Net) -> Callable[[Path, Any], type[nnx.Variable]]:
    """Says of which type the variable at a path is."""
    known = net.apply_fn.kinds if isinstance(net.apply_fn, Inference) else {}
    linen = any(leaf.path[0] == "params" for leaf in net.graph.leaves)

    def kind(path: Path, leaf: Any) -> type[nnx.Variable]:
        if path in known:
            return known[path]
        if linen and path[0] in COLLECTIONS:
            return COLLECTIONS[path[0]]
        trained = not linen and pytree.is_floating(str(jax.numpy.result_type(leaf)))
        return nnx.Param if trained else nnx.Variable

    return kind


def _fill(node: nnx.Module, tree: dict[str, Any], path: Path, kind: Callable[..., Any]) -> None:
    """Puts a nested dict into a module, level by level."""
    for key, value in tree.items():
        where = (*path, key)
        if isinstance(value, dict):
            setattr(node, key, Part())
            _fill(getattr(node, key), value, where, kind)
        else:
            setattr(node, key, kind(where, value)(value))
