"""Refitting a folded network's kernels one after another, on what it computes itself.

Widths and coordinates are those of the one-shot fold. In the order of execution every kernel that
reads or makes folded coordinates is fitted by least squares: from what the folded network feeds
it to what the original's product made, so that it also corrects the errors made before it. One
pass over the rows a kernel.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.network import Network
from linjax.dims.reads import Frame, features, frame_of, matrix_index, results
from linjax.dims.run import execute
from linjax.dims.sites import Site
from linjax.dims.sizes import read_sizes
from linjax.dims.span import Cut, transform
from linjax.evidence.moments import merge_scatter
from linjax.evidence.points import point_spans
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.linalg import solve
from linjax.fold.hasty import jit_hastily
from linjax.fold.rewrite import Written, add_to_bias, narrowing
from linjax.graph import pytree

Array = Any

RIDGES = (1e-6, 1e-4, 1e-2, 0.3)
"""Weights of the diagonal that are compared on held-out rows."""
FOLDS = 2
"""Folds of the rows, for the choice of the shrinkage."""
LARGEST = 4608
"""Features beyond which a kernel stays as the one-shot fold made it."""


class Seen(NamedTuple):
    """Moments of [features, target] in one fold of the rows: weight, means, centred sums."""

    count: Array
    mean: Array
    scatter: Array


class Job(NamedTuple):
    """A kernel to refit.

    Attributes:
      op: its product.
      frame: how that is laid out.
      index: places in the leaf of the entries of its matrix.
      window: the leaf's shape.
      folded: sites that were folded among what it makes, with their choices.
    """

    op: int
    frame: Frame
    index: np.ndarray
    window: tuple[int, ...]
    folded: tuple[tuple[Site, Choice], ...]


def refit_in_order(
    network: Network, original: pytree.Flat, now: Written, folded: Sequence[tuple[Site, Choice]],
    chunks: Sequence[Sequence[Array]],
) -> pytree.Flat:  # fmt: skip
    """Returns the leaves with all kernels refitted that a fold has to do with.

    Args:
      network: the traced network.
      original: its parameters.
      now: the network folded in one shot.
      folded: the sites that were folded, with their choices.
      chunks: calibration rows, the leaves of the inputs by batch.
    """
    ops = _affected(network, [site for site, _ in folded])
    jobs = [job for op in ops if (job := _job(network, now, op, folded)) is not None]
    halves = [part for chunk in chunks for part in _halved(chunk)]
    targets = _all_targets(network, original, jobs, halves)
    for _, group in itertools.groupby(jobs, lambda job: _operand(network, job).id):
        now = _refit(network, now, list(group), halves, targets)
    return now.flat


def _halved(chunk: Sequence[Array]) -> list[list[Array]]:
    """The rows of a chunk in two folds."""
    if len(chunk[0]) < FOLDS:
        return [list(chunk)]
    return [[x[f::FOLDS] for x in chunk] for f in range(FOLDS)]


def _operand(network: Network, job: Job) -> Any:
    """What a product reads."""
    return network.layout.makers[job.op].inputs[job.frame.data]


def _all_targets(
    network: Network, original: pytree.Flat, jobs: list[Job], halves: list[list[Array]]
) -> list[dict[int, np.ndarray]]:
    """What the products are to make, by part of the rows: one program for all of them."""

    @jit_hastily
    def run(flat: Any, inputs: Any) -> dict[int, Array]:
        values = execute(network, flat, inputs, frozenset(job.op for job in jobs)).values
        return {job.op: _target(network, job, flat, values[job.op]) for job in jobs}

    device = {path: jnp.asarray(leaf) for path, leaf in original.items()}
    return [jax.device_get(run(device, part)) for part in halves]


def _affected(network: Network, sites: list[Site]) -> list[int]:
    """Products that read or make folded coordinates, in order; each kernel's only one."""
    found = {p.op for site in sites for p in (*site.readers, *site.makers)}
    leaves = [kernel.leaf for kernel in network.kernels.values()]
    order = [op.outputs[0].id for op in network.layout.program.all_ops()]
    read = {p.op for site in sites for p in site.readers}  # a plan counts biases of these
    return [
        op for op in order
        if op in found and op in network.kernels and leaves.count(network.kernels[op].leaf) == 1
        and (op in read or op in network.biases)
    ]  # fmt: skip


def _job(
    network: Network, now: Written, op: int, folded: Sequence[tuple[Site, Choice]]
) -> Job | None:
    """What refitting a kernel takes; None where it can't be written back, or isn't worth it."""
    leaf = network.kernels[op].leaf
    kernel = now.flat.get(network.paths[leaf])
    if kernel is None or not kernel.size:
        return None
    frame = frame_of(network, op)
    index = matrix_index(network, frame, kernel.shape)
    if index is None or index.shape[1] > LARGEST:
        return None
    made = {d for s in network.layout.values[op].spans for d in s.dims()}
    return Job(
        op, frame, index, kernel.shape, tuple(pair for pair in folded if pair[0].dim in made)
    )


def _refit(
    network: Network, now: Written, jobs: list[Job], halves: list[list[Array]],
    targets: list[dict[int, np.ndarray]],
) -> Written:  # fmt: skip
    """Fits kernels that read the same to their targets."""
    small = {path: jnp.asarray(leaf) for path, leaf in now.flat.items()}
    operand = _operand(network, jobs[0])

    @jit_hastily
    def measure(flat: Any, inputs: Any, wanted: dict[int, Array]) -> list[Seen]:
        source = execute(network, flat, inputs, frozenset({operand.id})).values[operand.id]
        return [_measured(job, source, wanted[job.op]) for job in jobs]

    seen: list[list[Seen | None]] = [[None] * FOLDS for _ in jobs]
    for turn, (part, target) in enumerate(zip(halves, targets, strict=True)):
        wanted = {job.op: target[job.op] for job in jobs}
        found = jax.tree.map(lambda x: np.asarray(x, np.float64), measure(small, part, wanted))
        for own, new in zip(seen, found, strict=True):
            old = own[turn % FOLDS]
            own[turn % FOLDS] = new if old is None else _merged(old, new)
    for job, own in zip(jobs, seen, strict=True):
        now = _written(network, now, job, [x for x in own if x is not None])
    return now


def _measured(job: Job, source: Array, target: Array) -> Seen:
    """Moments of what a kernel reads now and of what it is to make."""
    f = features(job.frame, source, job.window)
    rows = jnp.concatenate([f, target], axis=-1).astype(jnp.float32)
    mean = jnp.mean(rows, axis=1)
    centred = rows - mean[:, None]
    scatter = jnp.einsum("nsi,nsj->nij", centred, centred, precision="highest")
    return Seen(jnp.asarray(rows.shape[1], jnp.float32), mean, scatter)


def _target(network: Network, job: Job, original: Any, value: Array) -> Array:
    """What a product is to make, as rows: coordinates that are kept, then linear ones."""
    parts = [results(job.frame, x) for x in _targets(network, job, original, value)]
    return jnp.concatenate(parts, axis=-1).astype(jnp.float32)


def _targets(network: Network, job: Job, original: Any, value: Array) -> list[Array]:
    """What a product is to make of its coordinates: those kept, and the linear ones."""
    spans = point_spans(network.layout, job.op)
    now, linear = read_sizes(network, original), []
    sizes = {dim: now.all(dim) for dim in now.kept}
    for site, choice in job.folded:
        cut = Cut(site.dim, site.beside, lambda d, s=dict(sizes): s[d], lambda x: x)
        if choice.linear.shape[-1]:
            mixed = cut._replace(change=lambda x, m=choice.linear[0]: x @ m.astype(np.float32))
            linear.append(transform(value, spans, mixed))
        value = transform(value, spans, cut._replace(change=narrowing(choice)))
        sizes[site.dim] = choice.kept.shape[-1]
    return [value, *linear]


def _merged(a: Seen, b: Seen) -> Seen:
    count, mean, scatter = merge_scatter(
        np.asarray([a.count]), a.mean, a.scatter, np.asarray([b.count]), b.mean, b.scatter
    )
    return Seen(count[0], mean, scatter)


def _written(network: Network, now: Written, job: Job, seen: list[Seen]) -> Written:
    """Puts the fitted kernel, and the bias that goes with it, in place."""
    flat, leaf = dict(now.flat), network.kernels[job.op].leaf
    path, extra = network.paths[leaf], network.extra(leaf, "linear")
    before = [flat[path].reshape(-1)[job.index]]
    if extra in flat:
        index = matrix_index(network, job.frame, flat[extra].shape)
        before.append(flat[extra].reshape(-1)[index])
    prior = np.concatenate(before, axis=-1).astype(np.float64)
    whole = functools.reduce(_merged, seen)
    kernel = _solved(whole, prior, _ridge(seen, prior))
    p, q = prior.shape[1], before[0].shape[-1]
    flat[path] = _put(flat[path], job.index, kernel[..., :q])
    if extra in flat:
        flat[extra] = _put(flat[extra], index, kernel[..., q:])
    shift = whole.mean[:, p : p + q] - np.einsum("np,npq->nq", whole.mean[:, :p], kernel[..., :q])
    shape = tuple(flat[path].shape[n] for n in network.bias_axes(leaf))
    change = shift.reshape(shape) - now.shifts.get(job.op, 0.0)
    add_to_bias(network, flat, job.op, change)
    return now._replace(flat=flat, shifts={**now.shifts, job.op: shift.reshape(shape)})


def _put(leaf: Array, index: np.ndarray, value: Array) -> Array:
    flat = np.array(leaf).reshape(-1)
    flat[index.reshape(-1)] = value.reshape(-1)
    return flat.reshape(leaf.shape)


def _solved(seen: Seen, prior: Array, ridge: float) -> Array:
    """The kernel that the moments ask for, shrunk towards the one that is there."""
    p = prior.shape[1]
    found = []
    for scatter, own in zip(seen.scatter, prior, strict=True):
        c = scatter[:p, :p] / seen.count
        left = scatter[:p, p:] / seen.count - c @ own
        c = c + ridge * np.diag(np.diag(c))
        found.append(own + solve(c, left))
    return np.stack(found)


def _ridge(seen: list[Seen], prior: Array) -> float:
    """The shrinkage of the least error on rows that weren't fitted."""
    if len(seen) < 2:
        return RIDGES[-1]
    errors = []
    for ridge in RIDGES:
        total = 0.0
        for train, test in (seen, seen[::-1]):
            total += _error(test, _solved(train, prior, ridge))
        errors.append(total)
    if min(errors) >= sum(_error(test, prior) for test in seen):
        return RIDGES[-1]
    return RIDGES[int(np.argmin(errors))]


def _error(seen: Seen, kernel: Array) -> float:
    p = kernel.shape[1]
    total = 0.0
    for scatter, own in zip(seen.scatter, kernel, strict=True):
        c, cross, targets = scatter[:p, :p], scatter[:p, p:], scatter[p:, p:]
        scale = 1.0 / np.maximum(np.diag(targets), 1e-30)
        errors = np.diag(targets) - 2 * np.einsum("pq,pq->q", own, cross)
        errors = errors + np.einsum("pq,pr,rq->q", own, c, own, optimize=True)
        total += float(errors @ scale)
    return total / float(seen.count)
