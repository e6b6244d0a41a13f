"""Batch norm's running statistics, taken anew on what a smaller network computes."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.run import execute
from linjax.dims.values import Source
from linjax.net import Net
from linjax.program import pytree
from linjax.program.flat import Op, Ref

Array = Any


class Norm(NamedTuple):
    """A batch norm: ``(x − mean) · 1/sqrt(var + …)``.

    Attributes:
      value: number of the value x.
      axis: along which its coordinates stand.
      mean: leaf of the running means.
      var: leaf of the running variances.
    """

    value: int
    axis: int
    mean: int
    var: int


def recalibrated(net: Net, params: Any, batches: Iterable[Any]) -> Any:
    """Returns parameters whose batch norms have the statistics of what they see now.

    One norm after another, in the order of execution: each sees what those before it make with
    their new statistics. Networks without batch norm stay as they are.

    Args:
      net: the traced network.
      params: its parameters, folded by any method.
      batches: inputs, read once for each norm: a list.

    References: Jordan et al., REPAIR, 2022, arXiv 2211.08403; Wang et al., ICLR 2025, arXiv
    2502.10216, after folding by k-means.
    """
    network, flat = net.network, net.network.flatten(params)
    norms = batch_norms(network)

    @jax.jit
    def sums(flat: Any, inputs: Any) -> list[tuple[Array, Array, Array]]:
        values = execute(network, flat, inputs, frozenset(n.value for n in norms)).values
        found = []
        for norm in norms:
            x = jnp.moveaxis(values[norm.value], norm.axis, -1)
            x = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
            mean = x.mean(0)
            found.append((jnp.asarray(len(x), jnp.float32), mean, jnp.sum((x - mean) ** 2, 0)))
        return found

    for n, norm in enumerate(norms):
        count, mean, scatter = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
        for batch in batches:
            more, other, own = sums(flat, jax.tree.leaves(batch))[n]
            total, apart = count + more, other - mean
            mean = mean + apart * more / total
            scatter = scatter + own + apart**2 * count * more / total
            count = total
        for leaf, value in ((norm.mean, mean), (norm.var, scatter / count)):
            path = network.paths[leaf]
            if path in flat and jnp.size(flat[path]):
                old = jnp.asarray(flat[path])  # linear coordinates beside have no norm
                flat[path] = value[: old.size].reshape(old.shape).astype(old.dtype)
    return pytree.unflatten(flat, like=params)


def batch_norms(network: Network) -> list[Norm]:
    """Finds ``(x − mean)`` that is multiplied by ``1/sqrt(var)``, both of them leaves."""
    layout, found = network.layout, []
    for op in layout.program.all_ops():
        if op.name not in ("mul", "div") or layout.loops[number(op)]:
            continue
        for place in (0, 1):
            centred = _behind(layout.makers, op.inputs[place])
            variances = _variances(network, op.inputs[1 - place])
            if centred is None or centred.name != "sub" or len(variances) != 1:
                continue
            x, mean = (layout.operand(centred, k) for k in (0, 1))
            if x.source is not Source.DATA or mean.leaf is None:
                continue
            spans = layout.leaves[mean.leaf]
            dims = [d for s in spans for d in s.dims()]
            axis = next((n for n, s in enumerate(x.spans) if s.dims() == dims), None)
            if axis is not None and isinstance(centred.inputs[0], Ref):
                (var,) = variances
                found.append(Norm(centred.inputs[0].id, axis, mean.leaf, var))
    return found


def _behind(makers: dict[int, Op], operand: Any) -> Op | None:
    """What makes an operand."""
    return makers.get(operand.id) if isinstance(operand, Ref) else None


def _variances(network: Network, operand: Any) -> set[int]:
    """Leaves whose (inverse) square root a value of parameters is made with."""
    layout = network.layout
    op = _behind(layout.makers, operand)
    if op is None or layout.values[number(op)].source is not Source.PARAMETER:
        return set()
    if op.name in ("rsqrt", "sqrt", "pow"):
        return _leaves(network, op)
    return set().union(*(_variances(network, o) for o in op.inputs))


def _leaves(network: Network, op: Op) -> set[int]:
    found: set[int] = set()
    for place, operand in enumerate(op.inputs):
        held = network.layout.operand(op, place)
        if held.leaf is not None:
            found.add(held.leaf)
        elif (before := _behind(network.layout.makers, operand)) is not None:
            found |= _leaves(network, before)
    return found
