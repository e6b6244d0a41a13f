"""Which inputs have a row for each example, and which belong to all rows of a batch.

Most networks treat the rows of a batch one by one, so that these can be dealt and counted. Where
inputs have different lengths (the nodes and edges of graphs, a table beside the rows, a random key)
the trace says which of them are rows: those whose first axis is the outputs' first, with nothing
on the way that sums over it, orders it or looks entries up in it. A batch without any is one
example as a whole.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.layout import Layout
from linjax.dims.network import Network
from linjax.dims.space import ENDS, LOOKED_UP
from linjax.dims.values import Role
from linjax.errors import EvidenceError
from linjax.program.flat import Ref

Array = Any
_MIXING = (Role.SUMMED, Role.READ, Role.PAIRED, Role.WEIGHED)


def by_row(network: Network, inputs: Sequence[Array]) -> tuple[bool, ...]:
    """Says for every input whether its first axis is that of the rows.

    Args:
      network: the network, traced for inputs of these shapes.
      inputs: the leaves of a batch, or their shapes.
    """
    layout = network.layout
    shapes = [jnp.shape(x) for x in inputs]
    first = [_first(layout, ref) for ref in layout.inputs]
    known = {d for own in first for d in own}
    looked_up = len(set(first)) > 1 and any(LOOKED_UP in layout.reasons[d] for d in known)
    if all(shapes) and len({s[0] for s in shapes}) == 1 and not looked_up:
        return (True,) * len(shapes)
    mixed = {d for d in known if _mixed(layout, d)}
    outputs = {_first(layout, o) for o in layout.program.outputs if isinstance(o, Ref)}
    return tuple(bool(own) and own in outputs and not mixed & set(own) for own in first)


def apart(network: Network) -> bool:
    """Whether all inputs have a row for each example, and no row of the outputs sees another's."""
    layout = network.layout
    first = {_first(layout, ref) for ref in layout.inputs}
    outputs = {_first(layout, o) for o in layout.program.outputs if isinstance(o, Ref)}
    return first == outputs != {()} and not any(_mixed(layout, d) for own in first for d in own)


def shuffled(network: Network, count: int) -> Array:
    """So many rows in random order, as they are if one sees another."""
    return np.random.default_rng(0).permutation(count) if apart(network) else np.arange(count)


def shifts(count: int, folds: int) -> Array:
    """By how much the turns of every block of rows are moved, as many rows as there are folds.

    Data whose kinds come by turns would else be dealt to the folds by kind.

    Args:
      count: how many rows a batch has.
      folds: how many folds.

    >>> shifts(7, 2).tolist()
    [1, 0, 0]
    """
    return (np.random.default_rng(0).random(count // folds) * folds).astype(np.int32)


def turns(count: int, folds: int) -> Array:
    """By row of a batch the turn in which it is dealt.

    >>> turns(7, 2).tolist()
    [1, 0, 0, 1, 0, 1, 0]
    """
    moved = np.append(shifts(count, folds), np.int32(0))  # the last block may be short
    rows = np.arange(count)
    return (rows - moved[rows // folds]) % folds


def fold_of(turn: Any, before: int, folds: int) -> Any:
    """The fold of rows whose turn it is in a batch, after so many rows before."""
    return (turn + before) % folds


def _first(layout: Layout, ref: Ref) -> tuple[int, ...]:
    spans = layout.values[ref.id].spans
    return tuple(spans[0].dims()) if spans else ()


def _mixed(layout: Layout, dim: int) -> bool:
    """Whether what happens along a dimension lets its entries see each other."""
    marks = layout.marks.get(dim, ())
    return bool(set(layout.reasons[dim]) - ENDS) or any(m.role in _MIXING for m in marks)


def told(given: Any, inputs: tuple[Any, ...]) -> tuple[bool, ...]:
    """Says for every leaf of a batch what the user said of it, or of all that it is part of.

    Raises:
      EvidenceError: if that doesn't fit the batch.
    """
    try:
        spread = jax.tree.map(lambda own, x: jax.tree.map(lambda _: bool(own), x), given, inputs)
    except (TypeError, ValueError) as error:
        raise EvidenceError(
            f"by_row = {given}: expected one boolean for all, or a tuple of one for each input"
        ) from error
    return tuple(jax.tree.leaves(spread))


def length(leaves: Sequence[Array], rows: Sequence[bool], index: int) -> int:
    """Returns the number of rows of a batch, 1 where it is one example as a whole.

    Raises:
      EvidenceError: if it is empty, or its inputs have different numbers of rows.
    """
    shapes = [jnp.shape(x) for x, own in zip(leaves, rows, strict=True) if own]
    if () in shapes:
        raise EvidenceError(f"batch {index}: an input without axes can't have rows")
    hollow = next((s for s in shapes if 0 in s[1:]), None)
    if hollow is not None:
        raise EvidenceError(f"batch {index}: an input of shape {hollow} has no entries")
    found = {shape[:1] for shape in shapes}
    counts = sorted(n for shape in found for n in shape)
    if 0 in counts:
        raise EvidenceError(f"batch {index}: empty, expected at least one row")
    if len(counts) > 1:
        raise EvidenceError(f"batch {index}: arrays of {counts} rows, expected one number")
    return counts[0] if counts else 1


def taken(leaves: Sequence[Array], rows: Sequence[bool], index: Any) -> list[Array]:
    """Takes some rows of a batch; what belongs to all of them stays."""
    return [x[index] if own else x for x, own in zip(leaves, rows, strict=True)]
