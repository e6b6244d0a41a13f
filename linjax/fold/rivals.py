"""What others do, to compare with: structured pruning, pruning with refit, low-rank kernels.

Each takes the same evidence and the same number of parameters as :func:`linjax.fold`, and gives
every site the same share of its coordinates, or every kernel of its rank.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from linjax.errors import LinjaxError
from linjax.evidence.score import norms
from linjax.evidence.stats import Stats
from linjax.fold.engine.choose import keeping
from linjax.fold.engine.cost import State
from linjax.fold.engine.factor import curve, factor
from linjax.fold.engine.problem import frame
from linjax.fold.factored import Kernel, split_in_two
from linjax.fold.frontier import Frontier, frontier
from linjax.fold.rewrite import begun, finished, shifted_result, write
from linjax.fold.rules import Size
from linjax.graph import pytree

Array = np.ndarray
Score = Callable[[Frontier, pytree.Flat, int], Array]

RIDGE = 1e-3


def magnitude(params: Any, stats: Stats, rule: Size) -> Any:
    """Removes the coordinates with the smallest kernels, the same share of every site.

    Reference: Li et al., Pruning filters for efficient ConvNets, 2017, arXiv 1608.08710.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> from linjax.fold.rivals import magnitude
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.arange(12.0).reshape(2, 6), "out": jnp.ones((6, 2))}
      >>> x = jnp.eye(2)
      >>> stats = linjax.collect(linjax.trace(apply, params, x), params, [x])
      >>> magnitude(params, stats, linjax.size(0.5))["in"].shape
      (2, 3)
    """

    def score(known: Frontier, flat: pytree.Flat, index: int) -> Array:
        site = known.problems.sites[index]
        return np.sqrt(norms(known.stats.network, flat, site, site.makers))

    return _pruned(params, stats, rule, score, refit=False)


def activity(params: Any, stats: Stats, rule: Size) -> Any:
    """Removes the coordinates with the lowest mean, the same share of every site.

    Reference: activation-based pruning of neural networks, Algorithms 17(1):48, 2024.
    """

    def score(known: Frontier, _: pytree.Flat, index: int) -> Array:
        problem = known.problems.problems[index]
        return frame(problem.points[0].moments).mean[:, : problem.width]

    return _pruned(params, stats, rule, score, refit=False)


def pruned_and_refitted(params: Any, stats: Stats, rule: Size) -> Any:
    """Removes the coordinates that say least and refits what reads, ``B = C_kk⁻¹ C_kz``.

    A coordinate's score is ``E h² ‖w'‖²``; every site keeps the same share.

    References: CORP, 2026, arXiv 2602.05243; GRAIL, 2026, arXiv 2602.23795.
    """

    def score(known: Frontier, flat: pytree.Flat, index: int) -> Array:
        site, problem = known.problems.sites[index], known.problems.problems[index]
        seen = frame(problem.points[0].moments)
        energy = np.einsum("nii->ni", seen.covariance) + seen.mean**2
        return energy[:, : problem.width] * norms(known.stats.network, flat, site, site.readers)

    return _pruned(params, stats, rule, score, refit=True)


def truncated(params: Any, stats: Stats, rule: Size) -> Any:
    """Truncates the singular values of every kernel, to the same share of its rank."""

    def rank(kernel: Kernel, share: float) -> int:
        return max(1, round(share * min(kernel.matrix.shape)))

    def plain(kernel: Kernel) -> Kernel:
        p, q = kernel.matrix.shape
        moments = kernel.moments._replace(
            covariance=np.broadcast_to(np.eye(p), kernel.moments.covariance.shape)
        )
        return kernel._replace(moments=moments, metric=np.eye(q))

    return _low_rank(params, stats, rule, plain, rank)


def truncated_whitened(params: Any, stats: Stats, rule: Size) -> Any:
    """Truncates the singular values of ``C^{1/2} W``, the same share of energy in all kernels.

    Reference: Wang et al., SVD-LLM, 2024, arXiv 2403.07378.
    """

    def whitened(kernel: Kernel) -> Kernel:
        return kernel._replace(metric=np.eye(kernel.matrix.shape[1]))

    def rank(kernel: Kernel, share: float) -> int:
        covariance = frame(kernel.moments).covariance[0]
        left = curve(covariance, covariance, kernel.matrix, kernel.metric)
        energy = 1.0 - left / max(left[0], np.finfo(np.float64).tiny)
        return max(1, int(np.searchsorted(energy, share)))

    return _low_rank(params, stats, rule, whitened, rank)


def _largest(cost: Callable[[float], float], allowed: float, rule: Size) -> float:
    """The largest share in (0, 1] whose network is within the budget.

    Raises:
      LinjaxError: if even the smallest isn't.
    """
    if cost(0.0) > allowed:
        raise LinjaxError(f"{rule}: one coordinate of each site, or rank one, is already more")
    low, high = 0.0, 1.0
    if cost(high) <= allowed:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= allowed else (low, middle)
    return low


def _pruned(params: Any, stats: Stats, rule: Size, score: Score, refit: bool) -> Any:
    known = frontier(params, stats)
    own, prices = known.problems, known.prices(rule)

    def state(share: float) -> State:
        units = tuple(max(1, round(share * p.width)) for p in own.problems)
        return prices.start._replace(units=units)

    def cost(share: float) -> float:
        now = state(share)
        return prices.cost(now) + (known.biases(rule.of, now) if refit else 0.0)

    units = state(_largest(cost, rule.fraction * prices.cost(prices.start), rule)).units
    flat = pytree.flatten(params)
    now = begun(stats.network, flat)
    for index, (site, problem, points) in enumerate(
        zip(own.sites, own.problems, own.points, strict=True)
    ):
        if units[index] < problem.width:
            order = np.argsort(-score(known, flat, index), axis=-1, kind="stable")
            choice = keeping(problem, np.sort(order[:, : units[index]], axis=-1), RIDGE, refit)
            now = write(stats.network, now, site, choice.by_site(points))
    return finished(now.flat, params)


def _low_rank(
    params: Any, stats: Stats, rule: Size, seen: Callable[[Kernel], Kernel],
    rank: Callable[[Kernel, float], int],
) -> Any:  # fmt: skip
    known = frontier(params, stats)
    prices, kernels = known.prices(rule), tuple(map(seen, known.problems.kernels))

    def state(share: float) -> State:
        ranks = tuple(rank(kernel, share) for kernel in kernels)
        worth = tuple(
            r if r * sum(k.matrix.shape) < k.matrix.size else 0
            for r, k in zip(ranks, kernels, strict=True)
        )
        return prices.start._replace(ranks=worth)

    def cost(share: float) -> float:
        return prices.cost(state(share)) + known.biases(rule.of, state(share))

    ranks = state(_largest(cost, rule.fraction * prices.cost(prices.start), rule)).ranks
    now = begun(stats.network, pytree.flatten(params))
    for kernel, s in zip(kernels, ranks, strict=True):
        if s:
            data = frame(kernel.moments)
            covariance, mean = data.covariance[0], data.mean[0]
            down, up, lacking = factor(covariance, mean, kernel.matrix, kernel.metric, s)
            flat, change = split_in_two(stats.network, now.flat, kernel, (down, up), lacking)
            now = shifted_result(stats.network, now._replace(flat=flat), kernel.read.op, change)
    return finished(now.flat, params)
