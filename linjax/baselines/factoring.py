"""Kernels in two factors by truncated singular values; methods differ in how they find ranks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from linjax.baselines.budget import Evidence, largest, unfolded
from linjax.fold.engine.factor import curve, factor
from linjax.fold.engine.problem import frame
from linjax.fold.plans.factored import Kernel
from linjax.fold.rewrite import Halves, halved
from linjax.fold.rules import Size
from linjax.fold.written import begun, finished

Array = np.ndarray


class Spectrum(NamedTuple):
    """What a kernel's ranks are chosen by.

    Attributes:
      left: share of the result's energy that is left out behind each rank, 0 for the last.
      values: the singular values, largest first.
      rank: what an entry of it costs for each rank; whole, it costs ``entry · p q``.
      whole: what it costs whole.
    """

    left: Array
    values: Array
    rank: float
    whole: float


Ranks = Callable[[Spectrum, float], int]
"""A kernel's rank at a share that is the same for all kernels; 0 leaves it whole."""


def truncated(params: Any, stats: Evidence, rule: Size) -> Any:
    """Truncates the singular values of every kernel, to the same share of its rank."""

    def rank(own: Spectrum, share: float) -> int:
        return max(1, round(share * len(own.values)))

    return _low_rank(params, stats, rule, _plain, rank)


def error_bounded(params: Any, stats: Evidence, rule: Size) -> Any:
    """Truncates the singular values of every kernel, all at the same relative error.

    The error is that of the spectral norm, the largest singular value left out by the largest
    one: the largest error of all kernels is as small as the size allows. No data are used. The
    published method also cuts a kernel's inputs into groups of their own factors; here it is one.

    Reference: Liebenwein et al., Compressing neural networks: towards determining the optimal
    layer-wise decomposition (ALDS), 2021, arXiv 2107.11442.
    """

    def rank(own: Spectrum, share: float) -> int:
        return max(1, int(np.sum(own.values > (1 - share) * own.values[0])))

    return _low_rank(params, stats, rule, _plain, rank)


def truncated_whitened(params: Any, stats: Evidence, rule: Size) -> Any:
    """Truncates the singular values of ``C^{1/2} W``, the same share of energy in all kernels.

    Reference: Wang et al., SVD-LLM, 2024, arXiv 2403.07378; there all kernels keep the same share
    of their entries.
    """

    def rank(own: Spectrum, share: float) -> int:
        return max(1, int(np.searchsorted(1.0 - own.left, share)))

    return _low_rank(params, stats, rule, _whitened, rank)


def energy_budgeted(params: Any, stats: Evidence, rule: Size) -> Any:
    """Truncates the singular values of ``C^{1/2} W`` with the least sum of relative errors.

    One price for all kernels trades error for size.

    Reference: BALF: Budgeted activation-aware low-rank factorization for fine-tuning-free model
    compression, 2025, arXiv 2509.25136.
    """

    def rank(own: Spectrum, share: float) -> int:
        price = (1 - share) / max(share, 1e-12)
        values = own.left + price * own.rank * np.arange(len(own.left))
        values[0] = price * own.whole  # rank 0 stands for the whole kernel
        return int(np.argmin(values))

    return _low_rank(params, stats, rule, _whitened, rank)


def _plain(kernel: Kernel) -> Kernel:
    """A kernel whose inputs are as if nothing were known of them."""
    p, q = kernel.matrix.shape
    old = kernel.moments
    moments = old._replace(
        mean=np.zeros_like(old.mean), covariance=np.broadcast_to(np.eye(p), old.covariance.shape)
    )
    return kernel._replace(moments=moments, metric=np.eye(q))


def _whitened(kernel: Kernel) -> Kernel:
    """A kernel all of whose results are worth the same."""
    return kernel._replace(metric=np.eye(kernel.matrix.shape[1]))


def _low_rank(
    params: Any, stats: Evidence, rule: Size, seen: Callable[[Kernel], Kernel], rank: Ranks
) -> Any:
    known = unfolded(params, stats)
    network = known.stats.network
    prices, kernels = known.prices(rule), tuple(map(seen, known.problems.kernels))
    start = prices.start
    before = prices.cost(start)
    allowed = rule.fraction * before

    def costs(n: int) -> tuple[float, float]:
        """What a kernel costs for each rank, and whole: shares of the network."""
        units = np.eye(len(kernels), dtype=int)[n]
        one, two = (prices.cost(start._replace(ranks=tuple(k * units))) for k in (1, 2))
        return (two - one) / before, (before - 2 * one + two) / before

    spectra = [_spectrum(kernel, *costs(n)) for n, kernel in enumerate(kernels)]

    def state(share: float) -> Any:
        ranks = [rank(own, share) for own in spectra]
        worth = (
            r if r * own.rank < own.whole else 0 for r, own in zip(ranks, spectra, strict=True)
        )
        return start._replace(ranks=tuple(worth))

    def cost(share: float) -> float:
        return prices.cost(state(share)) + known.biases(rule.of, state(share))

    now = begun(network, network.flatten(params))
    for kernel, s in zip(kernels, state(largest(cost, allowed, rule)).ranks, strict=True):
        if s:
            data = frame(kernel.moments)
            covariance, mean = data.covariance[0], data.mean[0]
            down, up, lacking = factor(covariance, mean, kernel.matrix, kernel.metric, s)
            now = halved(network, now, kernel.read, Halves(down, up), lacking)
    return finished(now.flat, params)


def _spectrum(kernel: Kernel, rank: float, whole: float) -> Spectrum:
    covariance = frame(kernel.moments).covariance[0]
    left = curve(covariance, covariance, kernel.matrix, kernel.metric)
    values = np.sqrt(np.maximum(-np.diff(left), 0.0))
    return Spectrum(left / max(left[0], np.finfo(np.float64).tiny), values, rank, whole)
