"""Calibration rows: read again and again, held out, mixed, with the original's outputs."""

import functools
import math
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.memory import largest, replayed
from linjax.errors import EvidenceError
from linjax.evidence.given import as_numbers, as_values
from linjax.evidence.objective import divergence
from linjax.evidence.rows import by_row, fold_of, shuffled, turns
from linjax.fold.hasty import jit_hastily
from linjax.net import Net
from linjax.program.placed import inputs_of

Array = Any
Batch = tuple[Any, ...]

HELD_OUT = 5
"""One in so many rows decides between candidates; nothing is fitted to it."""
CHUNK = 4096
"""Rows that run at a time."""
IMAGES = 256
"""Rows that run at a time where there are convolutions, whose feature maps are large."""
SPACE = 2**30
"""Bytes that a network's values may take of rows that run at a time."""
VALUES = 4
"""Values that are there at a time when a network runs, at most."""
REPLAYED = 2**31
"""Bytes of values that refits in the order of execution may hold."""
FEWEST = 32
"""Rows that they are made on, whatever they take."""
ROWS = 20_000
"""Rows that are kept in memory."""
ENOUGH = 16_000
"""Rows that mixing aims at."""
MOST_MIXES = 3
"""Largest number of mixed rows for every row."""
POOL = 2**31
"""Bytes of rows and outputs that are kept for training on."""


class Rows(NamedTuple):
    """Chunks of inputs with the original's outputs, and how many rows they hold."""

    chunks: tuple[tuple[Batch, Any], ...]
    total: int


def repeatable(batches: Any) -> Callable[[], Iterator[Batch]]:
    """Returns a function that starts the batches anew, each a tuple of inputs.

    Raises:
      EvidenceError: if they are an iterator, which can be read only once.
    """
    if isinstance(batches, Iterator):
        raise EvidenceError(
            "batches can be read only once; pass a list, or a function that returns an iterator"
        )
    return functools.partial(started, batches)


def started(batches: Any) -> Iterator[Batch]:
    """Batches from their beginning, each a tuple of inputs."""
    every = batches() if callable(batches) else batches
    return map(inputs_of, every)


def in_rows(net: Net, params: Any, again: Callable[[], Iterator[Batch]], instead: str) -> None:
    """Checks that batches are rows, which can be taken apart, held out and mixed.

    Parameters are checked, too.

    Args:
      net: the network.
      params: its parameters.
      again: starts the batches anew.
      instead: what to do where they aren't.

    Raises:
      StructureError: if parameters or inputs don't fit the network.
      EvidenceError: if inputs differ in length, or one is looked up in another.
    """
    net.check(params)
    as_values(params)
    for inputs in again():
        as_numbers(jax.tree.leaves(inputs), 0)
        network = net.network_for(net.network.flatten(params), inputs)
        if not all(by_row(network, jax.tree.leaves(inputs))):
            raise EvidenceError(
                "batches: their inputs aren't all rows that could be held out (a graph, a table "
                f"beside the rows, a random key); {instead}"
            )
        return


def size_of(inputs: Batch) -> int:
    """Returns the number of rows of a batch."""
    return jax.tree.leaves(inputs)[0].shape[0]


def load(net: Net, batches: Any, limit: int = ROWS, folds: int = 0) -> Batch:
    """Returns rows of the batches as one batch on the host: all of them, or about the limit.

    Where batches tell how many they are, those that are left away are spread over all. Rows come
    in random order, if none sees another: what holds some out, or takes the first ones, doesn't
    depend on theirs.

    Args:
      net: the traced network.
      batches: an iterable of them, or what returns an iterator.
      limit: how many rows are enough.
      folds: of evidence that was collected on the same batches; with two or more only rows that
        aren't in its first one.

    Raises:
      EvidenceError: if there are none, or their rows differ in shape.
    """
    total = len(batches) if isinstance(batches, Sized) else 0
    some, count, before = list[Batch](), 0, 0
    for index, inputs in enumerate(started(batches)):
        as_numbers(jax.tree.leaves(inputs), index)
        size, start = size_of(inputs), before
        before += size
        if count >= (limit * (index + 1) / total if total else limit):
            if not total:
                break
            continue
        kept: Any = slice(None)
        if folds > 1:
            kept = np.flatnonzero(fold_of(turns(size, folds), start, folds))
            size = len(kept)
        some.append(jax.tree.map(lambda x, own=kept: np.asarray(x)[own], inputs))
        one, other = (jax.tree.map(lambda x: x.shape[1:], own) for own in (some[0], some[-1]))
        if one != other:
            raise EvidenceError(
                f"batch {index}: rows of shapes {other}, those of batch 0 are of {one}; they are "
                "taken together: pad them to one, or fold without rows, by linjax.fold"
            )
        count += size
    if not before:
        raise EvidenceError("no batches: the iterable of calibration data is empty")
    every = shuffled(net.network, count)
    return jax.tree.map(lambda *x: np.concatenate(x)[every], *some)


def divided(everything: Batch) -> tuple[Batch, Batch]:
    """Returns the rows to fit on and the rows held out (all of them, if there are too few)."""
    out = np.arange(size_of(everything)) % HELD_OUT == HELD_OUT - 1
    if not out.any():
        return everything, everything
    return tuple(
        jax.tree.map(lambda x, chosen=chosen: x[chosen], everything) for chosen in (~out, out)
    )


def enriched(inputs: Batch) -> Batch:
    """Returns the rows and others between them: as many again, or more where rows are few."""
    count = size_of(inputs)
    times = min(max(1, ENOUGH // max(count, 1) - 1), MOST_MIXES)
    more = [m for seed in range(times) if (m := mixed(inputs, seed)) is not None]
    return jax.tree.map(lambda *x: np.concatenate(x), inputs, *more)


def pooled(net: Net, params: Any, inputs: Batch, mix: bool) -> tuple[Batch, Any]:
    """Returns rows, mixed ones among them, and the original's outputs for them, on the host.

    As many mixed rows for every row as memory allows, up to three; fewer rows if it allows
    not even these.

    Raises:
      EvidenceError: if outputs don't belong to rows.
    """
    count = size_of(inputs)
    outputs = jax.eval_shape(net.apply, params, *inputs)
    for leaf in jax.tree.leaves(outputs):
        if leaf.shape[:1] != (count,):
            raise EvidenceError(f"an output has shape {leaf.shape}, expected {count} rows first")
    held = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves((inputs, outputs)))
    fitting = int(POOL / max(held, 1) * count)
    if fitting < count:
        inputs = jax.tree.map(lambda x: x[: max(fitting, 1)], inputs)
    for seed in range(min(MOST_MIXES, fitting // count - 1) if mix else 0):
        more = mixed(jax.tree.map(lambda x: x[:count], inputs), seed)
        if more is not None:
            inputs = jax.tree.map(lambda *x: np.concatenate(x), inputs, more)
    chunks = [jax.tree.map(np.asarray, targets) for _, targets in taught(net, params, inputs)[0]]
    return inputs, jax.tree.map(lambda *x: np.concatenate(x), *chunks)


def enriched_once(inputs: Batch) -> Batch:
    """Returns a batch's rows and as many between them."""
    more = mixed(inputs, size_of(inputs))
    return inputs if more is None else jax.tree.map(lambda *x: jnp.concatenate(x), inputs, more)


def mixed(inputs: Batch, seed: int) -> Batch | None:
    """Returns rows on the lines between pairs of rows, nearer to the first of the two.

    The original can be asked about any input; rows in between show a folded network where it
    strays from the original, without a label or a further row of data. None if the inputs
    aren't all floating point.

    References:
      Beyer et al., Knowledge distillation: a good teacher is patient and consistent, 2022,
      arXiv 2106.05237.
    """
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(inputs)):
        return None
    rng = np.random.default_rng(seed)
    count = size_of(inputs)
    partner, share = rng.permutation(count), rng.uniform(0.0, 0.5, count)

    def mix(x: Array) -> Array:
        weight = share.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
        return x + weight * (x[partner] - x)

    return jax.tree.map(mix, inputs)


def cut(net: Net, inputs: Batch) -> list[Batch]:
    """Returns rows in chunks of one size, the last a few less, that the network runs on at once."""
    count = size_of(inputs)
    step = -(-count // _chunks(net, count))
    starts = range(0, count, step)
    return [jax.tree.map(lambda x, a=a: jnp.asarray(x[a : a + step]), inputs) for a in starts]


def even(net: Net, inputs: Batch) -> Batch:
    """Leaves away the few rows by which the last chunk would differ: one program serves all."""
    count = size_of(inputs)
    whole = count - count % _chunks(net, count)
    return jax.tree.map(lambda x: x[:whole], inputs)


def _chunks(net: Net, count: int) -> int:
    space = int(SPACE / (VALUES * max(largest(net.network), 1.0)))
    most = CHUNK if net.network.dense else IMAGES
    return -(-count // max(min(most, space), 1))


def replayable(net: Net, inputs: Batch) -> Batch:
    """Returns as many of the rows as can be replayed twice at once, all values kept at hand."""
    most = int(REPLAYED / (2 * max(replayed(net.network), 1.0)))
    return even(net, jax.tree.map(lambda x: x[: max(most, FEWEST)], inputs))


def taught(net: Net, params: Any, inputs: Batch) -> Rows:
    """Returns rows in chunks, with the outputs of the original."""
    chunks = tuple((part, net.compiled(params, *part)) for part in cut(net, inputs))
    return Rows(chunks, size_of(inputs))


@functools.partial(jit_hastily, static_argnames=("net", "metric"))
def _divergence(net: Net, params: Any, inputs: Batch, teacher: Any, metric: str) -> Array:
    return divergence(net.apply(params, *inputs), teacher, metric)


def first(rows: Rows, most: int) -> Rows:
    """Returns the first chunks of some rows, about so many."""
    chunks: list[tuple[Batch, Any]] = []
    total = 0
    for chunk in rows.chunks:
        if total >= most:
            break
        chunks.append(chunk)
        total += size_of(chunk[0])
    return Rows(tuple(chunks), total)


def mean_divergence(net: Net, params: Any, rows: Rows, metric: str) -> float:
    """Returns the mean divergence of a network's outputs from the original's on some rows."""
    sums = [_divergence(net, params, *chunk, metric) for chunk in rows.chunks]
    return float(sum(sums)) / max(rows.total, 1)
