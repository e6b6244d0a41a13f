"""Kernels in two factors, ``W ≈ W_down W``: what their ranks cost, and how they are written."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.reads import Frame, matrix_index
from linjax.evidence.moments import PointMoments
from linjax.evidence.points import Read, reads
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.factor import curve, factor
from linjax.fold.engine.problem import Moments, Site, frame
from linjax.fold.engine.reads import made_metric
from linjax.program import pytree

Array = np.ndarray
Leaves = dict[Any, Array]


class Kernel(NamedTuple):
    """A kernel that may be factored.

    Attributes:
      read: its product, and the site's point that it reads.
      leaf: number of its leaf.
      matrix: ``(p, q)``, in float64.
      moments: of what it reads.
      metric: ``(q, q)``: an error of its results costs so much at the outputs of an example.
      made: the site that its results are, by its place; −1 where they are none's, or several.
    """

    read: Read
    leaf: int
    matrix: Array
    moments: Moments
    metric: Array
    made: int


def kernels_of(
    network: Network, flat: pytree.Flat, evidence: Sequence[PointMoments]
) -> tuple[Kernel, ...]:
    """The kernels of a network that may be factored, but for those that are already, or gone."""
    sites: dict[tuple[int, ...], int] = {
        (s.dim,): i for i, s in enumerate(network.foldable) if not s.beside
    }
    found = []
    for read, own in zip(reads(network), evidence, strict=True):
        leaf = network.kernels[read.op].leaf
        path = network.paths[leaf]
        extras = [network.extra(leaf, kind) for kind in ("down", "linear")]
        if path not in flat or any(extra in flat for extra in extras) or not own.count.all():
            continue
        value = np.asarray(flat[path], np.float64)
        places = matrix_index(network, read.frame, value.shape)[0]
        if min(places.shape) < 2 or places.shape[0] != own.mean.shape[-1]:
            continue
        spans = [network.layout.leaves[leaf][n] for n in network.bias_axes(leaf)]
        moments = Moments(own.count, own.mean, own.scatter / own.count[:, None, None, None])
        dims = tuple(d for s in spans for d in s.dims())
        matrix, metric = value.reshape(-1)[places], own.metric[0] * float(own.places)
        found.append(Kernel(read, leaf, matrix, moments, metric, sites.get(dims, -1)))
    return tuple(found)


def error_curve(kernel: Kernel) -> Array:
    """The predicted squared error of the outputs by rank, on rows that nothing was fitted to."""
    folds = len(kernel.moments.count)
    train, test = (frame(kernel.moments, [f % folds]).covariance[0] for f in (0, 1))
    return curve(train, test, kernel.matrix, kernel.metric)


def factored(
    network: Network, flat: Leaves, kernel: Kernel, rank: int, problems: Sequence[Site],
    choices: Sequence[Choice], points: Sequence[Sequence[int]],
) -> tuple[Leaves, Array]:  # fmt: skip
    """Returns the leaves with a kernel in two factors, before its sites are folded.

    The directions that pass are those of what arrives once the sites are, and serve what will be
    made of it.

    Args:
      network: the traced network.
      flat: its leaves.
      kernel: the kernel.
      rank: number of directions.
      problems: the sites.
      choices: what they will keep, by points of the problem.
      points: by site, which of the problem's points each point of the site is.

    Returns:
      The leaves, and what the result lacks, along the axes that the kernel makes.
    """
    seen = frame(kernel.moments)
    covariance, mean = seen.covariance[0], seen.mean[0]
    if kernel.read.point is not None:
        site, point = kernel.read.point
        covariance = _arriving(problems[site], choices[site], points[site][point])
    wanted, metric = kernel.matrix, kernel.metric
    if kernel.made >= 0 and problems[kernel.made].kind == "bent":
        choice = choices[kernel.made]
        mixed = wanted @ choice.linear[0]
        wanted = np.concatenate([wanted[:, choice.kept[0]], mixed], axis=1)
        metric = made_metric(problems[kernel.made], choice)[0]
    down, _, _ = factor(covariance, mean, wanted, metric, rank)
    up = down.T @ covariance @ kernel.matrix  # for all results, those that will go, too
    return split_in_two(network, flat, kernel, (down, up), mean @ (kernel.matrix - down @ up))


def split_in_two(
    network: Network, flat: Leaves, kernel: Kernel, factors: tuple[Array, Array], lacking: Array
) -> tuple[Leaves, Array]:
    """Returns the leaves with a kernel in two factors.

    Args:
      network: the traced network.
      flat: its leaves.
      kernel: the kernel.
      factors: ``(p, s)`` and ``(s, q)``.
      lacking: ``(q,)`` what the result lacks.

    Returns:
      The leaves, and what the result lacks along the axes that the kernel makes.
    """
    path, own = network.paths[kernel.leaf], kernel.read.frame
    value = flat[path]
    both = shapes(network, kernel.leaf, value.shape, len(factors[1]))
    down, up = (
        placed(network, own, shape, matrix, value.dtype)
        for shape, matrix in zip(both, factors, strict=True)
    )
    order = np.argsort(matrix_index(network, own, value.shape)[0, 0])
    made = tuple(value.shape[n] for n in network.bias_axes(kernel.leaf))
    result = {**flat, path: up, network.extra(kernel.leaf, "down"): down}
    return result, lacking[order].reshape(made)


def _arriving(problem: Site, choice: Choice, point: int) -> Array:
    """Covariance of a site's coordinates as they are rebuilt from what it keeps."""
    whole = frame(problem.points[point].moments).covariance[0]
    m, (k, r) = problem.width, (choice.kept.shape[-1], choice.linear.shape[-1])
    if choice.basis is not None:
        mix = choice.basis[0]
    else:
        mix = np.zeros((len(whole), k + r))
        mix[choice.kept[0], np.arange(k)] = 1.0
        if r:
            mix[m:, k:] = choice.linear[0]
    rebuilt = mix @ choice.decode[point][0]
    return rebuilt.T @ whole @ rebuilt


def shapes(
    network: Network, leaf: int, shape: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the two factors of a kernel; one axis of what is made, or read, has its rank."""
    made = network.bias_axes(leaf)
    read = [n for n in range(len(shape)) if n not in made]
    own = network.layout.values[network.ref(leaf)].read
    at = next(n for n in read if own & set(network.layout.leaves[leaf][n].dims()))
    first = tuple(rank if n == made[0] else 1 if n in made else shape[n] for n in range(len(shape)))
    second = tuple(rank if n == at else shape[n] if n in made else 1 for n in range(len(shape)))
    return first, second


def placed(
    network: Network, own: Frame, shape: tuple[int, ...], matrix: Array, dtype: Any
) -> Array:
    """A factor's matrix as a leaf."""
    leaf = np.zeros(int(np.prod(shape)), dtype)
    leaf[matrix_index(network, own, shape)[0].reshape(-1)] = matrix.reshape(-1)
    return leaf.reshape(shape)


def effective(network: Network, flat: Leaves, op: int, own: Frame) -> Array:
    """The kernel that two factors are, in the layout of its leaf."""
    leaf = network.kernels[op].leaf
    up, down = flat[network.paths[leaf]], flat.get(network.extra(leaf, "down"))
    if down is None:
        return up
    made = network.bias_axes(leaf)
    shape = tuple(up.shape[n] if n in made else down.shape[n] for n in range(up.ndim))
    first, second = (
        x.reshape(-1)[matrix_index(network, own, x.shape)[0]].astype(np.float64) for x in (down, up)
    )
    return placed(network, own, shape, first @ second, np.float64)
