"""Kernels in two factors, ``W ≈ W_down W``: what their ranks cost, and which they become."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.reads import matrix_index
from linjax.dims.sizes import read_sizes
from linjax.evidence.moments import PointMoments
from linjax.evidence.points import Read, reads
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.factor import curve, factor
from linjax.fold.engine.problem import Moments, Site, Stream, frame
from linjax.fold.factors import placed
from linjax.fold.plans.patches import Patches, Refit, patches_of, refitted
from linjax.fold.rewrite import Halves, halved, result_lacks
from linjax.fold.shifts import shifted_result
from linjax.fold.written import Written
from linjax.program import pytree

Array = np.ndarray


class Kernel(NamedTuple):
    """A kernel that may be factored.

    Attributes:
      read: its product, and the site's point that it reads.
      leaf: number of its leaf.
      matrix: ``(p, q)``, in float64.
      moments: of what it reads.
      metric: ``(q, q)``: an error of its results costs so much at the outputs of an example.
      made: the site that its results are, by its place; −1 where they are none's, or several.
      patches: all that it reads, where that is several taps.
    """

    read: Read
    leaf: int
    matrix: Array
    moments: Moments
    metric: Array
    made: int
    patches: Patches | None


def kernels_of(
    network: Network, flat: pytree.Flat, evidence: Sequence[PointMoments]
) -> tuple[Kernel, ...]:
    """The kernels of a network that may be factored, but for those that are already, or gone."""
    sites: dict[tuple[int, ...], int] = {
        (s.dim,): i for i, s in enumerate(network.foldable) if not s.beside
    }
    found, sizes = [], read_sizes(network, flat)
    for read, own in zip(reads(network), evidence, strict=True):
        leaf = network.kernels[read.op].leaf
        path = network.paths[leaf]
        extras = [network.extra(leaf, kind) for kind in ("down", "linear")]
        if path not in flat or any(extra in flat for extra in extras) or not own.count.all():
            continue
        value = np.asarray(flat[path], np.float64)
        places = matrix_index(network, read.frame, value.shape)[0]
        patches = patches_of(network, sizes, read, own)
        own = own if patches is None else _rows(own, patches.rows)
        if min(places.shape) < 2 or places.shape[0] != own.mean.shape[-1]:
            continue
        spans = [network.layout.leaves[leaf][n] for n in network.bias_axes(leaf)]
        moments = Moments(own.count, own.mean, own.scatter / own.count[:, None, None, None])
        dims = tuple(d for s in spans for d in s.dims())
        matrix, metric = value.reshape(-1)[places], own.metric[0] * float(own.places)
        found.append(Kernel(read, leaf, matrix, moments, metric, sites.get(dims, -1), patches))
    return tuple(found)


def _rows(own: PointMoments, rows: Array) -> PointMoments:
    """Moments of some features alone."""
    if len(rows) == own.mean.shape[-1]:
        return own
    scatter = np.stack([own.scatter[f][:, rows[:, None], rows] for f in range(len(own.count))])
    return own._replace(mean=own.mean[..., rows], scatter=scatter)


def error_curve(kernel: Kernel) -> Array:
    """The predicted squared error of the outputs by rank, on rows that nothing was fitted to."""
    folds = len(kernel.moments.count)
    train, test = (frame(kernel.moments, [f % folds]).covariance[0] for f in (0, 1))
    return curve(train, test, kernel.matrix, kernel.metric)


def factored(
    network: Network, now: Written, kernel: Kernel, rank: int, problems: Sequence[Site],
    choices: Sequence[Choice], points: Sequence[Sequence[int]],
) -> Written:  # fmt: skip
    """Returns the network with a kernel in two factors, before its sites are folded.

    Args:
      network: the traced network.
      now: what it is now.
      kernel, rank, problems, choices, points: as for :func:`factors_of`.
    """
    return halved(network, now, kernel.read, *factors_of(kernel, rank, problems, choices, points))


def factors_of(
    kernel: Kernel, rank: int, problems: Sequence[Site], choices: Sequence[Choice],
    points: Sequence[Sequence[int]],
) -> tuple[Halves, Array]:  # fmt: skip
    """A kernel's two factors, and what its result lacks with them.

    The directions that pass are those of what arrives once the sites are folded, in the metric that
    was measured at the kernel's own result. One of what its units' mean slopes make of the metric
    behind them, for those alone that stay, was 1.7 times as far off on a seven-layer MLP.

    Args:
      kernel: the kernel.
      rank: number of directions.
      problems: the sites.
      choices: what they will keep, by points of the problem.
      points: by site, which of the problem's points each point of the site is.
    """
    seen = frame(kernel.moments)
    covariance, mean, matrix = seen.covariance[0], seen.mean[0], kernel.matrix
    target = mean @ matrix
    refit = refit_of(kernel, problems, choices, points)
    if refit is not None:
        covariance, mean, matrix = refit.covariance, refit.mean, refit.kernel
    elif kernel.read.point is not None:
        site, point = kernel.read.point
        at = points[site][point]
        if problems[site].stream is None:
            covariance = _arriving(problems[site], choices[site], at)
        else:
            mix = through(problems[site].stream, choices[site], at)
            covariance = mix.T @ covariance @ mix
    down, _, _ = factor(covariance, mean, matrix, kernel.metric, rank)
    up = down.T @ covariance @ matrix  # for all results, those that will go, too
    return Halves(down, up), target - mean @ (down @ up)


def refit_of(
    kernel: Kernel, problems: Sequence[Site], choices: Sequence[Choice],
    points: Sequence[Sequence[int]],
) -> Refit | None:  # fmt: skip
    """A kernel of several taps refitted to what arrives, see :func:`~.patches.refitted`."""
    if kernel.patches is None:
        return None
    return refitted(kernel.patches, kernel.matrix, problems, choices, points)


def refilled(
    network: Network, now: Written, kernel: Kernel, problems: Sequence[Site],
    choices: Sequence[Choice], points: Sequence[Sequence[int]],
) -> Written:  # fmt: skip
    """Returns the network with a kernel of several taps refitted, before its sites are folded."""
    refit = refit_of(kernel, problems, choices, points)
    if refit is None:
        return now
    path = network.paths[kernel.leaf]
    shape, dtype = now.flat[path].shape, now.flat[path].dtype
    own = placed(network, kernel.read.frame, shape, refit.kernel, dtype)
    change = result_lacks(network, kernel.read, shape, refit.lacking)
    now = now._replace(flat={**now.flat, path: own})
    return shifted_result(network, now, kernel.read.op, change)


def through(stream: Stream, choice: Choice, point: int) -> Array:
    """What a stream's readers get of what they read: ``(m, m)``."""
    scale = stream.scales[point]
    if choice.basis is None:
        return np.eye(len(scale))
    return np.asarray((choice.basis[0] / scale[:, None]) @ choice.decode[point][0] * scale)


def _arriving(problem: Site, choice: Choice, point: int) -> Array:
    """Covariance of a site's coordinates as they are rebuilt from what it keeps."""
    whole = frame(problem.points[point].moments).covariance[0]
    mix = choice.mix[0]
    rebuilt = mix @ choice.decode[point][0]
    return rebuilt.T @ whole[: len(mix), : len(mix)] @ rebuilt
