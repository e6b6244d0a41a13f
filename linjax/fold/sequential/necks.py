"""Kernels factored in the order of execution, by what arrives there."""

from typing import Any

import numpy as np

from linjax.dims.network import Network
from linjax.dims.reads import matrix_index
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.factor import factor
from linjax.fold.plans.factored import Kernel
from linjax.fold.rewrite import Halves, halved, result_lacks
from linjax.fold.shifts import shifted_linear
from linjax.fold.written import Written

Array = Any


def refactored(
    network: Network, now: Written, kernel: Kernel, rank: int, moments: tuple[Array, Array],
    made: Choice | None,
) -> Written:  # fmt: skip
    """Returns the network with a kernel in two factors.

    The directions that pass are chosen by the metric that was measured at the kernel's own result.

    Args:
      network: the traced network.
      now: what it is now.
      kernel: the kernel, as it was.
      rank: number of directions that pass.
      moments: mean and covariance of what it reads now.
      made: what has become of the site that its results are, if that is folded already.
    """
    flat, leaf, own = now.flat, kernel.leaf, kernel.read.frame
    paths = [network.paths[leaf], network.extra(leaf, "linear")]
    parts = [
        flat[path].reshape(-1)[matrix_index(network, own, flat[path].shape)[0]].astype(np.float64)
        for path in paths
        if path in flat
    ]
    matrix, (mean, covariance) = np.concatenate(parts, axis=1), moments
    metric = _metric(kernel, made, matrix.shape[1])
    down, _, _ = factor(covariance, mean, matrix, metric, rank)
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


def _metric(kernel: Kernel, made: Choice | None, width: int) -> Array:
    """What errors of a kernel's results cost, as these are now.

    An error of what a fold makes of them costs what the smallest one of theirs does that makes it.
    """
    whole = np.eye(len(kernel.metric))
    if made is None:
        return kernel.metric if len(whole) == width else np.eye(width)
    linear = made.linear[0][:, : width - made.kept.shape[-1]]
    kept = whole[:, made.kept[0]] if made.basis is None else made.basis[0]
    back = np.linalg.pinv(np.concatenate([kept, linear], axis=1))
    return back @ kernel.metric @ back.T
