"""How much of each site one affine map would recover: where whole blocks can go."""

from typing import Any, NamedTuple

import numpy as np

from linjax.errors import EvidenceError
from linjax.evidence.stats import Stats
from linjax.fold.engine.linalg import metric_root, solve
from linjax.fold.frontier import chain_problems
from linjax.fold.least_squares.features import Features, Frame, onward
from linjax.fold.least_squares.prices import Problem, anatomy, halves, spread
from linjax.fold.threads import one_thread
from linjax.graph import pytree, table

Array = np.ndarray

RIDGE = 1e-5


class SiteRecoverability(NamedTuple):
    """What an affine map from a site's inputs to its readers would recover.

    Attributes:
      r2: share of the variance of the readers' pre-activations that it explains, on rows
        that it wasn't fitted to; 1 where they don't vary.
      weighted: the same in the output metric: what the network's outputs see of it.
      before: parameters of the site: the maps that make it and those that read it.
      after: parameters of the affine map; of a rank lower than its smaller side, fewer.
      rank: the least rank of an affine map that explains all but a hundredth as much, in
        the output metric.
    """

    r2: float
    weighted: float
    before: int
    after: int
    rank: int


class Recoverability(NamedTuple):
    """Linear recoverability by site; prints as a table."""

    sites: dict[str, SiteRecoverability]

    def __getitem__(self, name: str) -> SiteRecoverability:  # type: ignore[override]
        return self.sites[name]

    def __repr__(self) -> str:
        header = ("site", "R²", "R² of outputs", "rank", "parameters", "as one affine map")
        rows = [
            (name, f"{s.r2:.3f}", f"{s.weighted:.3f}", s.rank, s.before, s.after)
            for name, s in self.sites.items()
        ]
        return table.grid(header, rows)


@one_thread()
def recoverability(params: Any, stats: Stats) -> Recoverability:
    """Measures how well every site's block, activation and all, is an affine map.

    For a site ``t = σ(v W + b) W' + b'`` the map ``t ≈ v B + c`` is fitted by least squares on
    some folds of the calibration rows, and ``R² = 1 − E‖t − v B − c‖² / E‖t − E t‖²`` is
    measured on the others. Near 1, a fold to a small size keeps no unit of the block and
    replaces it by B, or by two factors of low rank.

    Args:
      params: the pytree that the evidence was collected on.
      stats: evidence of :func:`collect`, with second moments.

    Returns:
      :class:`Recoverability`; printed, a table.

    Raises:
      StructureError: if params isn't the network of the evidence, naming the path.
      EvidenceError: if the evidence holds no second moments.

    References:
      Linear recoverability of transformer blocks, 2026, arXiv 2606.19379.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"] + 9) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> x = jax.random.normal(jax.random.key(0), (100, 3))
      >>> stats = linjax.collect(linjax.trace(apply, params, x), params, [x])
      >>> round(linjax.recoverability(params, stats)["in"].r2, 4)
      1.0
    """
    if stats.moments is None:
        raise EvidenceError("recoverability needs second moments; second_moments=True")
    pytree.check_leaves(stats.graph, pytree.flatten(params))
    found = {}
    for chain, problem in zip(stats.graph.chains, chain_problems(params, stats), strict=True):
        for depth, site in enumerate(chain.sites):
            found[site.name] = _site(problem, depth)
    return Recoverability(found)


def _site(problem: Problem, depth: int) -> SiteRecoverability:
    parts = anatomy(problem)
    metrics, layers = problem.moments.sensitivity, problem.layers
    v, after = parts.features[depth], parts.features[depth + 1]
    t = after @ onward(layers, depth + 1, [np.eye(len(metric)) for metric in metrics])
    weighted = after @ onward(layers, depth + 1, [metric_root(metric) for metric in metrics])
    folds = halves(problem, RIDGE * spread(problem))
    layer, reader = layers[depth], layers[depth + 1]
    return SiteRecoverability(
        r2=float(np.mean([_r2(*pair, v, t)[0] for pair in folds])),
        weighted=float(np.mean([_r2(*pair, v, weighted)[0] for pair in folds])),
        before=layer.kernels.size + layer.biases.size + reader.kernels.size + reader.biases.size,
        after=v.width * t.width + t.width,
        rank=int(max(_r2(*pair, v, weighted)[1] for pair in folds)),
    )


def _r2(train: Frame, test: Frame, v: Features, t: Features) -> tuple[float, int]:
    """R² on other rows, and the rank from which on it grows by less than a hundredth."""
    kernel = solve(train.within(v), train.between(v, t))
    total = float(np.trace(test.within(t)))
    if total <= 0.0:
        return 1.0, 0
    cross, inside = test.between(v, t), test.within(v)
    explained = 2.0 * np.sum(kernel * cross) - np.sum(kernel * (inside @ kernel))
    values = np.linalg.eigvalsh(kernel.T @ inside @ kernel)[::-1]
    rank = int(np.searchsorted(np.cumsum(values), 0.99 * values.sum())) + 1
    return float(explained / total), min(rank, v.width)
