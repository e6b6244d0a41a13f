"""A batch made ready: arrays with rows, what these weigh, and the folds that they are dealt to."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from linjax.errors import EvidenceError, StructureError
from linjax.evidence import placement
from linjax.evidence.given import as_numbers
from linjax.evidence.rows import by_row as by_row_of
from linjax.evidence.rows import length, shifts, taken, told
from linjax.evidence.weights import checked, of_rows
from linjax.net import Net
from linjax.program import pytree
from linjax.program.placed import inputs_of, placed

Array = Any
Batch = Any
Weights = Callable[..., Array] | Iterable[Array]


class Part(NamedTuple):
    """A batch: its inputs' leaves and containers, which of them have rows, and what these weigh."""

    leaves: list[Array]
    tree: Any
    rows: tuple[bool, ...]
    weights: Array | None

    def taken(self, index: Any, weights: Array | None = None) -> "Part":
        """Some of its rows."""
        return self._replace(leaves=taken(self.leaves, self.rows, index), weights=weights)

    @property
    def size(self) -> int:
        """How many rows it has; one example as a whole is one."""
        return len(self.leaves[self.rows.index(True)]) if any(self.rows) else 1

    def shapes(self, count: int) -> Any:
        """The shapes of its inputs with so many rows."""
        pairs = zip(pytree.shapes_of(self.leaves), self.rows, strict=True)
        own = [x.update(shape=(count, *x.shape[1:])) if row else x for x, row in pairs]
        return jax.tree.unflatten(self.tree, own)

    @property
    def inputs(self) -> Any:
        return jax.tree.unflatten(self.tree, self.leaves)


def _divides(net: Net, flat: pytree.Flat, part: Part) -> bool:
    """Whether the network takes some of a batch's rows: its function may be bound to their number.

    Where it doesn't take all of them either, that is for the error to say.
    """
    if not any(part.rows):
        return True
    try:
        net.network_for(flat, part.shapes(-(-part.size // 2)))
    except StructureError:
        net.network_for(flat, part.inputs)
        return False
    return True


def counted(part: Part) -> int:
    """How many rows there are to deal, of those that weigh anything; none of one example."""
    if part.weights is not None:
        return int(jnp.sum(of_rows(part.weights) > 0))
    return part.size if any(part.rows) else 0


def dealt(part: Part, folds: int) -> list[Part]:
    """The rows that are dealt in one turn after the other, see :func:`.rows.turns`.

    With weights all rows, of which those of other turns weigh nothing.
    """
    if not any(part.rows):
        return [part] * folds
    moved = shifts(part.size, folds)
    if part.weights is not None:
        return [part._replace(weights=own) for own in _weights(part.weights, moved, folds)]
    with_rows = [x for x, row in zip(part.leaves, part.rows, strict=True) if row]
    found = []
    for own in _rows(with_rows, moved, folds)[: part.size]:
        some = iter(own)
        pairs = zip(part.leaves, part.rows, strict=True)
        found.append(part._replace(leaves=[next(some) if row else x for x, row in pairs]))
    return found


@functools.partial(jax.jit, static_argnames="folds")
def _weights(weights: Array, moved: Array, folds: int) -> list[Array]:
    """Weights by turn; a row that weighs nothing is as if it weren't there."""
    there = of_rows(weights) > 0
    place, total = jnp.cumsum(there) - 1, jnp.sum(there)
    moved = jnp.append(moved, 0)[jnp.minimum(place // folds, len(moved))]
    moved = jnp.where(place < total // folds * folds, moved, 0)
    turn = ((place - moved) % folds).reshape(-1, *(1,) * (weights.ndim - 1))
    return [jnp.where(turn == own, weights, 0) for own in range(folds)]


@functools.partial(jax.jit, static_argnames="folds")
def _rows(leaves: list[Array], moved: Array, folds: int) -> list[list[Array]]:
    """Rows by turn. Nothing is gathered, so that they stay where they are on a mesh."""

    def of_turn(x: Array, turn: int) -> Array:
        blocks = [x[n::folds][: len(moved)] for n in range(folds)]
        found = blocks[turn]
        for by in range(1, folds):
            own = (moved == by).reshape(-1, *(1,) * (x.ndim - 1))
            found = jnp.where(own, blocks[(turn + by) % folds], found)
        return jnp.concatenate([found, x[len(moved) * folds + turn :][:1]])

    return [[of_turn(x, turn) for x in leaves] for turn in range(folds)]


def given_of(weights: Weights | None, beside: Any, batch: Batch, index: int) -> Any:
    """The weights of a batch, None without any."""
    if callable(weights):
        return weights(*inputs_of(batch))
    if beside is None:
        return None
    try:
        return next(beside)
    except StopIteration:
        raise EvidenceError(f"batch {index}: no weights are left for it") from None


def part_of(
    net: Net, flat: pytree.Flat, batch: Batch, given: Any, said: Any, index: int,
    mesh: Mesh | None,
) -> Part:  # fmt: skip
    """Makes arrays of a batch and its weights, spread over the mesh where possible."""
    inputs = inputs_of(batch)
    leaves, tree = jax.tree.flatten(inputs)
    if not leaves:
        raise EvidenceError(f"batch {index}: expected arrays, got none")
    as_numbers(leaves, index)
    if said is not None:
        rows = told(said, inputs)
    else:
        alone = len(leaves) == 1 and jnp.ndim(leaves[0]) > 0
        rows = (True,) if alone else by_row_of(net.network_for(flat, inputs), leaves)
        if not _divides(net, flat, Part(leaves, tree, rows, None)):
            rows = (False,) * len(rows)
    count = length(leaves, rows, index)
    if given is not None and not any(rows):
        raise EvidenceError(
            f"batch {index}: weights are of rows, and its inputs have none of their own; leave "
            "away what is padded"
        )
    if given is not None:
        given = checked(given, count, index)
    own = [x for x, row in zip(leaves, rows, strict=True) if row]
    own, given = placement.spread((own, given), count, index, mesh)
    beside = iter(placement.place([placed(x) for x, row in zip(leaves, rows, strict=True)
                                   if not row], mesh))  # fmt: skip
    spread = iter(own)
    return Part([next(spread if row else beside) for row in rows], tree, rows, given)
