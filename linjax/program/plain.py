"""Equations that mean the same as plainer ones."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

_meanings: dict[Any, Callable[..., Any]] = {}


def means(primitive: Any, meaning: Callable[..., Any]) -> None:
    """Says which function of JAX's own operations a primitive of ours stands for.

    Args:
      primitive: a primitive.
      meaning: takes its operands, and its parameters by name.
    """
    _meanings[primitive] = meaning


def plain(eqn: Any, known: Sequence[Any]) -> Any:
    """Returns a jaxpr that does what an equation does, None where it is plain enough.

    Args:
      eqn: the equation.
      known: its operands where they are constants, else None.
    """
    meaning = _meanings.get(eqn.primitive)
    if meaning is None:
        return _plain_slice(eqn, known)
    shapes = (var.aval for var in eqn.invars)
    return jax.make_jaxpr(functools.partial(meaning, **eqn.params))(*shapes)


def _plain_slice(eqn: Any, known: Sequence[Any]) -> Any:
    """Cuts at places that are known, which look otherwise where a batch has a symbolic size.

    ``slice`` and ``squeeze`` in place of a ``gather`` or ``dynamic_slice`` whose indices are
    constants inside of the operand.
    """
    cut = _known_cut(eqn, known)
    if cut is None:
        return None
    starts, sizes, gone = cut
    stops = [start + size for start, size in zip(starts, sizes, strict=True)]

    def piece(value: Any, *_: Any) -> Any:
        return jax.lax.squeeze(jax.lax.slice(value, starts, stops), gone)

    return jax.make_jaxpr(piece)(*(var.aval for var in eqn.invars))


def _known_cut(eqn: Any, known: Sequence[Any]) -> Any:
    """Starts, sizes, and axes that vanish, of a piece that an equation takes; None of others."""
    name, indices = eqn.primitive.name, known[1:]
    if not known or known[0] is not None or any(index is None for index in indices):
        return None
    if name == "gather":
        numbers, index = eqn.params["dimension_numbers"], np.asarray(indices[0])
        gone = tuple(numbers.collapsed_slice_dims)
        kept = len(eqn.params["slice_sizes"]) - len(gone)
        if index.ndim != 1 or numbers.offset_dims != tuple(range(kept)):
            return None
        starts = [0] * len(eqn.params["slice_sizes"])
        for at, start in zip(numbers.start_index_map, index.tolist(), strict=True):
            starts[at] = start
    elif name == "dynamic_slice":
        starts, gone = [int(index) for index in indices], ()
    else:
        return None
    shape, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    where = zip(starts, sizes, shape, strict=True)
    inside = all((a == 0 and b == n) or 0 <= a <= a + b <= n for a, b, n in where)
    return (starts, sizes, gone) if inside else None


def joined(eqn: Any) -> list[int]:
    """Which operands a ``concatenate`` joins: those that aren't empty, or the first of empty ones.

    ``jnp.pad`` by no entry cuts one off, repeats it no times and joins that to the rest, so that
    axes seemed to be cut that are whole.
    """
    axis = eqn.params["dimension"]
    some = [n for n, var in enumerate(eqn.invars) if str(var.aval.shape[axis]) != "0"]
    return some or [0]
