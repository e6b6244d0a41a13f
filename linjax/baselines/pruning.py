"""Structured pruning, with and without a refit: every site keeps the same share."""

from collections.abc import Callable
from typing import Any

import numpy as np

from linjax.baselines.budget import Evidence, inner, largest, same_share, unfolded
from linjax.dims.sites import Form
from linjax.evidence.score import norms
from linjax.fold.engine.choose import keeping
from linjax.fold.engine.cost import State
from linjax.fold.engine.problem import frame
from linjax.fold.frontier import Frontier
from linjax.fold.rewrite import write
from linjax.fold.rules import Size
from linjax.fold.written import begun, finished
from linjax.program import pytree

Array = np.ndarray
Score = Callable[[Frontier, pytree.Flat, int], Array]

RIDGE = 1e-3


def magnitude(params: Any, stats: Evidence, rule: Size) -> Any:
    """Removes the coordinates with the smallest kernels, the same share of every site.

    Reference: Li et al., Pruning filters for efficient ConvNets, 2017, arXiv 1608.08710.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> from linjax.baselines import magnitude
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


def activity(params: Any, stats: Evidence, rule: Size) -> Any:
    """Removes the coordinates with the lowest mean, the same share of every site.

    Reference: activation-based pruning of neural networks, Algorithms 17(1):48, 2024.
    """

    def score(known: Frontier, _: pytree.Flat, index: int) -> Array:
        problem = known.problems.problems[index]
        return frame(problem.points[0].moments).mean[:, : problem.width]

    return _pruned(params, stats, rule, score, refit=False)


def pruned_and_refitted(params: Any, stats: Evidence, rule: Size) -> Any:
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


def _pruned(params: Any, stats: Evidence, rule: Size, score: Score, refit: bool) -> Any:
    known = unfolded(params, stats)
    own, prices, network = known.problems, known.prices(rule), known.stats.network
    narrow = [
        inside and site.form is not Form.PAIRED  # no refit helps there
        for inside, site in zip(inner(network), own.sites, strict=True)
    ]

    def state(share: float) -> State:
        return prices.start._replace(units=same_share(own, narrow, share))

    def cost(share: float) -> float:
        now = state(share)
        return prices.cost(now) + (known.biases(rule.of, now) if refit else 0.0)

    units = state(largest(cost, rule.fraction * prices.cost(prices.start), rule)).units
    flat = network.flatten(params)
    now = begun(network, flat)
    for index, (site, problem, points) in enumerate(
        zip(own.sites, own.problems, own.points, strict=True)
    ):
        if units[index] < problem.width:
            order = np.argsort(-score(known, flat, index), axis=-1, kind="stable")
            choice = keeping(problem, np.sort(order[:, : units[index]], axis=-1), RIDGE, refit)
            now = write(network, now, site, choice.by_site(points))
    return finished(now.flat, params)
