"""What others do, to compare with: structured pruning, pruning with refit, low-rank kernels.

Each takes the same evidence and the same number of parameters as :func:`linjax.fold`. They
work on chains that haven't been folded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy

from linjax.errors import LinjaxError
from linjax.evidence.stats import Stats
from linjax.fold import uniform
from linjax.fold.engine.linalg import solve
from linjax.fold.frontier import budget, chain_problems, written
from linjax.fold.least_squares.features import Features, block_rows, frame
from linjax.fold.least_squares.prices import Problem, anatomy
from linjax.fold.rules import Size
from linjax.graph import pytree
from linjax.graph.count import count
from linjax.graph.layers import Layer, Layers
from linjax.graph.normal import normalise
from linjax.graph.substitute import keep_units

Array = np.ndarray
Shrink = Callable[[float], tuple[Layers, ...]]

RIDGE = 1e-3


def magnitude(params: Any, stats: Stats, rule: Size) -> Any:
    """Removes the units with the smallest incoming weights, the same share of every layer.

    Reference: Li et al., Pruning filters for efficient ConvNets, 2017, arXiv 1608.08710.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> from linjax.fold.rivals import magnitude
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.arange(12.0).reshape(2, 6), "out": jnp.ones((6, 2))}
      >>> x = jnp.eye(2)
      >>> stats = linjax.collect(linjax.trace(apply, params, x), params, [x])
      >>> magnitude(params, stats, linjax.size(0.5))["in"].shape
      (2, 2)
    """

    def unit(problem: Problem, i: int) -> Array:
        return _norms(problem.layers[i])

    if stats.network is not None:
        return uniform.pruned(params, stats, rule, uniform.norms, refit=False)
    return _pruned(params, stats, rule, unit, refit=False)


def activity(params: Any, stats: Stats, rule: Size) -> Any:
    """Removes the units with the lowest mean activation, the same share of every layer.

    Reference: activation-based pruning of neural networks, Algorithms 17(1):48, 2024.
    """
    if stats.network is not None:
        return uniform.pruned(params, stats, rule, uniform.means, refit=False)
    return _pruned(params, stats, rule, _activity, refit=False)


def pruned_and_refitted(params: Any, stats: Stats, rule: Size) -> Any:
    """Removes the units that say least and refits the next kernel, ``B = C_kk⁻¹ C_kz``.

    A unit's score is ``E h² ‖w'‖²``; every layer keeps the same share.

    References: CORP, 2026, arXiv 2602.05243; GRAIL, 2026, arXiv 2602.23795.
    """
    if stats.network is not None:
        return uniform.pruned(params, stats, rule, uniform.energies, refit=True)
    return _pruned(params, stats, rule, _energy, refit=True)


def truncated(params: Any, stats: Stats, rule: Size) -> Any:
    """Truncates the singular values of every kernel, to the same share of its rank."""
    problems = chain_problems(params, stats)
    ranked = [[(np.eye(len(layer.kernel)), layer) for layer in p.layers] for p in problems]
    return _low_rank(params, stats, rule, ranked, by_energy=False)


def truncated_whitened(params: Any, stats: Stats, rule: Size) -> Any:
    """Truncates the singular values of ``C^{1/2} W``, the same share of energy in all kernels.

    Reference: Wang et al., SVD-LLM, 2024, arXiv 2403.07378.
    """
    ranked = []
    for problem in chain_problems(params, stats):
        data = frame(problem.moments, None, RIDGE)
        features = anatomy(problem).features
        ranked.append(
            [
                (_root(data.within(v)), layer)
                for v, layer in zip(features, problem.layers, strict=True)
            ]
        )
    return _low_rank(params, stats, rule, ranked, by_energy=True)


def _root(covariance: Array) -> Array:
    """A square root R of a covariance, ``Rᵀ R = C``, invertible."""
    lifted = covariance + 1e-6 * max(np.trace(covariance) / len(covariance), 1e-12) * np.eye(
        len(covariance)
    )
    return scipy.linalg.cholesky(lifted, check_finite=False)


def _norms(layer: Layer) -> Array:
    squares = np.sum(layer.kernels**2, axis=0)  # a gated unit has a column in every kernel
    return np.sqrt(squares.reshape(-1, layer.units).sum(0))


def _activity(problem: Problem, i: int) -> Array:
    return frame(problem.moments).mean[block_rows(problem.moments)[i + 1]]


def _energy(problem: Problem, i: int) -> Array:
    data, rows = frame(problem.moments), block_rows(problem.moments)[i + 1]
    energy = np.diag(data.covariance)[rows] + data.mean[rows] ** 2
    return energy * np.sum(problem.layers[i + 1].kernels ** 2, 1)


def _largest(parameters: Callable[[float], int], budget: int) -> float:
    """The largest share in (0, 1] whose number of parameters is within the budget."""
    low, high = 0.0, 1.0
    if parameters(high) <= budget:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if parameters(middle) <= budget else (low, middle)
    return low


def _stored(chains: Sequence[Layers]) -> int:
    def size(layer: Layer) -> int:
        extra = sum(x.size for x in (layer.down, layer.linear) if x is not None)
        return layer.kernels.size + layer.biases.size + extra

    return sum(size(layer) for layers in chains for layer in normalise(layers))


def _share(params: Any, stats: Stats, rule: Size, shrink: Shrink) -> float:
    """The share with which the chains just fit the rule."""
    if stats.graph.branching:
        raise LinjaxError(
            "an activation is read by several maps of which some have units themselves; "
            "the rivals don't know such networks"
        )
    own = pytree.foldable_paths(stats.graph)
    fixed = count([x for path, x in pytree.flatten(params).items() if path not in own])
    allowed = budget(rule, count(params)) - fixed
    return _largest(lambda share: _stored(shrink(share)), allowed)


def _pruned(
    params: Any, stats: Stats, rule: Size, score: Callable[[Problem, int], Array], refit: bool
) -> Any:
    problems = chain_problems(params, stats)
    ranks = [
        [np.argsort(-score(p, i), kind="stable") for i in range(len(p.layers) - 1)]
        for p in problems
    ]

    def shrink(share: float) -> tuple[Layers, ...]:
        return tuple(
            _narrowed(p.layers, [np.sort(r[: max(1, round(share * len(r)))]) for r in order])
            for p, order in zip(problems, ranks, strict=True)
        )

    def shrink_and_refit(share: float) -> tuple[Layers, ...]:
        return tuple(
            _refitted(p, [layer.origin for layer in layers[:-1]])
            for p, layers in zip(problems, shrink(share), strict=True)
        )

    share = _share(params, stats, rule, shrink)
    return written(params, stats, shrink_and_refit(share) if refit else shrink(share))


def _narrowed(layers: Layers, kept: list[Array]) -> Layers:
    """Restricts layers to some units each, and their readers to these."""
    result: list[Layer] = []
    rows: Any = slice(None)
    for i, layer in enumerate(layers):
        columns = kept[i] if i < len(kept) else np.arange(layer.units)
        narrow = layer.with_kernels(layer.kernels[rows], layer.biases)
        result.append(keep_units(narrow, columns)._replace(origin=columns))
        rows = columns
    return tuple(result)


def _refitted(problem: Problem, kept: list[Array]) -> Layers:
    """Restricts layers and refits every kernel behind a narrowed layer."""
    data, rows = frame(problem.moments, None, RIDGE), block_rows(problem.moments)
    pre, layers = anatomy(problem).pre, list(_narrowed(problem.layers, kept))
    for i in range(1, len(layers)):
        v, columns = Features(rows[i][kept[i - 1]]), layers[i].origin
        kernels = solve(data.within(v), data.between(v, pre[i]))
        mean = data.mean_of(pre[i]) + problem.layers[i].biases
        whole = problem.layers[i].with_kernels(kernels, mean - data.mean_of(v) @ kernels)
        layers[i] = keep_units(whole, columns)._replace(origin=columns)
    return tuple(layers)


def _low_rank(
    params: Any, stats: Stats, rule: Size, ranked: list[list[tuple[Array, Layer]]], by_energy: bool
) -> Any:
    factors = [
        [
            (root, layer, np.linalg.svd(root @ layer.kernel, full_matrices=False))
            for root, layer in c
        ]
        for c in ranked
    ]

    def rank(values: Array, share: float) -> int:
        if not by_energy:
            return max(1, round(share * len(values)))
        energy = np.cumsum(values**2) / max(np.sum(values**2), np.finfo(np.float64).tiny)
        return min(len(values), 1 + int(np.searchsorted(energy, share)))

    def shrink(share: float) -> tuple[Layers, ...]:
        return tuple(
            tuple(_factored(root, layer, svd, rank(svd[1], share)) for root, layer, svd in chain)
            for chain in factors
        )

    return written(params, stats, shrink(_share(params, stats, rule, shrink)))


def _factored(root: Array, layer: Layer, svd: tuple[Array, Array, Array], rank: int) -> Layer:
    """A kernel as a product of two, through a few singular directions."""
    left, values, right = svd
    if rank >= len(values) or layer.mates:
        return layer
    down = np.linalg.solve(root, left[:, :rank] * values[:rank])
    return layer._replace(kernel=right[:rank], down=down)
