"""Kernels factored in the order of execution, by what arrives there and what is made of it."""

from typing import Any, NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.reads import matrix_index
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.factor import factor
from linjax.fold.engine.problem import Site
from linjax.fold.engine.reads import made_metric
from linjax.fold.plans.factored import Kernel
from linjax.fold.rewrite import Halves, halved, result_lacks
from linjax.fold.shifts import shifted_linear
from linjax.fold.written import Written

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


def refactored(
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
    flat, leaf, own = now.flat, kernel.leaf, kernel.read.frame
    paths = [network.paths[leaf], network.extra(leaf, "linear")]
    parts = [
        flat[path].reshape(-1)[matrix_index(network, own, flat[path].shape)[0]].astype(np.float64)
        for path in paths
        if path in flat
    ]
    matrix, (mean, covariance) = np.concatenate(parts, axis=1), moments
    if goal is None:
        fits = len(kernel.metric) == matrix.shape[1]
        goal = Wanted(np.eye(matrix.shape[1]), kernel.metric if fits else np.eye(matrix.shape[1]))
    down, _, _ = factor(covariance, mean, matrix @ goal.mix, goal.metric, rank)
    ups = [down.T @ covariance @ part for part in parts]
    lacking = [mean @ (part - down @ up) for part, up in zip(parts, ups, strict=True)]
    now = halved(network, now, kernel.read, Halves(down, np.concatenate(ups, axis=1)), lacking[0])
    if paths[1] not in flat:
        return now
    return shifted_linear(
        network,
        now,
        kernel.read.op,
        result_lacks(network, kernel.read, flat[paths[1]].shape, lacking[1]),
    )
