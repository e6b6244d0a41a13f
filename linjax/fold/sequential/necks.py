"""Kernels factored in the order of execution, by what arrives there and what is made of it."""

from typing import Any, NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.reads import matrix_index
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.factor import factor
from linjax.fold.engine.problem import Site
from linjax.fold.engine.reads import made_metric
from linjax.fold.plans.factored import Kernel, placed, shapes
from linjax.fold.rewrite import Written, shifted_result

Array = Any


class Wanted(NamedTuple):
    """What a kernel's results serve.

    Attributes:
      mix: ``(q, s)`` what will be made of the results.
      metric: ``(s, s)`` what an error of that costs.
    """

    mix: Array
    metric: Array


def before(problem: Site, choice: Choice) -> Wanted:
    """What the makers of a site serve that is about to be folded; it has no repeats."""
    metric, kept = made_metric(problem, choice)[0], choice.kept[0]
    if choice.basis is not None:
        return Wanted(choice.basis[0], metric)
    return Wanted(np.concatenate([np.eye(problem.width)[:, kept], choice.linear[0]], 1), metric)


def after(problem: Site, choice: Choice) -> Wanted:
    """What the makers of a site serve that has been folded."""
    metric = made_metric(problem, choice)[0]
    return Wanted(np.eye(len(metric)), metric)


def halved(
    network: Network, now: Written, kernel: Kernel, rank: int, moments: tuple[Array, Array],
    goal: Wanted | None,
) -> Written:  # fmt: skip
    """Returns the network with a kernel in two factors.

    Args:
      network: the traced network.
      now: what it is now.
      kernel: the kernel, as it was.
      rank: number of directions that pass.
      moments: mean and covariance of what it reads now.
      goal: what its results serve; the outputs as they did before, by default.
    """
    flat, leaf, own = dict(now.flat), kernel.leaf, kernel.read.frame
    paths = [network.paths[leaf], network.extra(leaf, "linear")]
    paths = [path for path in paths if path in flat]
    places = [matrix_index(network, own, flat[path].shape)[0] for path in paths]
    parts = [
        flat[p].reshape(-1)[at].astype(np.float64) for p, at in zip(paths, places, strict=True)
    ]
    matrix, (mean, covariance) = np.concatenate(parts, axis=1), moments
    if goal is None:
        fits = len(kernel.metric) == matrix.shape[1]
        goal = Wanted(np.eye(matrix.shape[1]), kernel.metric if fits else np.eye(matrix.shape[1]))
    down, _, _ = factor(covariance, mean, matrix @ goal.mix, goal.metric, rank)
    start = 0
    for path, at in zip(paths, places, strict=True):
        shape, dtype = flat[path].shape, flat[path].dtype
        up = down.T @ covariance @ matrix[:, start : start + at.shape[1]]
        start += at.shape[1]
        first, second = shapes(network, leaf, shape, rank)
        if path == paths[0]:
            lacking = mean @ (matrix[:, :start] - down @ up)
            order = np.argsort(at[0])
            lacking = lacking[order].reshape([shape[n] for n in network.bias_axes(leaf)])
            flat[network.extra(leaf, "down")] = placed(network, own, first, down, dtype)
        flat[path] = placed(network, own, second, up, dtype)
    return shifted_result(network, now._replace(flat=flat), kernel.read.op, lacking)
