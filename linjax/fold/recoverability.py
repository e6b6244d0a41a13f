"""How much of each site one affine map would recover: where whole blocks can go."""

from typing import Any, NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.rows import kernel_rows
from linjax.dims.sites import Product, Site
from linjax.dims.spelled import readings, spelled, vanished
from linjax.errors import EvidenceError
from linjax.evidence.given import as_evidence
from linjax.evidence.stats import Stats
from linjax.fold.engine.linalg import axes, root, solve
from linjax.fold.engine.problem import Point, frame, splits
from linjax.fold.engine.problem import Site as Problem
from linjax.fold.plans.pricing import problems_of
from linjax.fold.threads import one_thread
from linjax.program import pytree
from linjax.report import table

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

    For a site ``h = σ(z)``, ``z = v W + b``, read as ``t = h W' + b'``, the map
    ``t ≈ z M W' + c`` is fitted by least squares on some folds of the calibration rows, and
    ``R² = 1 − E‖t − z M W' − c‖² / E‖t − E t‖²`` is measured on the others. Near 1, a fold to
    a small size keeps no unit of the block and replaces it by ``W M W'``, or by two factors of
    low rank.

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
    as_evidence(params, stats)
    if not stats.points:
        raise EvidenceError("recoverability needs second moments; second_moments=True")
    flat = stats.network.flatten(params)
    found = problems_of(flat, stats)
    return Recoverability(
        {
            site.name: _site(stats.network, flat, site, problem)
            for site, problem in zip(found.sites, found.problems, strict=True)
            if problem.sources and problem.repeats == 1
        }
    )


def _site(network: Network, flat: pytree.Flat, site: Site, problem: Problem) -> SiteRecoverability:
    found = readings(network, vanished(network, flat), site)
    flat = spelled(network, flat)
    readers = tuple(reader for _, own in found for reader in own)
    plain = np.zeros((problem.width, problem.width))
    for at, products in found:
        for rows in kernel_rows(network, flat, at, products):
            plain = plain + rows[0].T @ rows[0]
    own = problem.points
    worth = sum(point.metric[0] for point in own)
    pairs = splits(problem)
    products = (*site.makers, *readers)
    leaves = {p.leaf for p in products} | {
        b.leaf for p in products for b in network.biases.get(p.op, ())
    }
    before = sum(np.size(flat.get(network.paths[leaf], ())) for leaf in leaves - {None})

    def across(products: tuple[Product, ...]) -> int:
        """What kernels have for each coordinate."""
        paths = [network.paths[leaf] for leaf in {p.leaf for p in products} - {None}]
        return sum(np.size(flat.get(path, ())) for path in paths) // problem.width

    inputs, outputs = across(site.makers), across(readers)
    fits = [_r2(own[0], *pair, plain) for pair in pairs]
    seen = [_r2(own[0], *pair, worth) for pair in pairs]
    return SiteRecoverability(
        r2=float(np.mean([r2 for r2, _ in fits])),
        weighted=float(np.mean([r2 for r2, _ in seen])),
        before=before,
        after=inputs * outputs + outputs,
        rank=max(rank for _, rank in seen),
    )


def _r2(point: Point, train: list[int], test: list[int], metric: Array) -> tuple[float, int]:
    """R² on other rows, and the rank from which on it grows by less than a hundredth."""
    m = len(metric)
    first, second = (frame(point.moments, folds).covariance[0] for folds in (train, test))
    lifted = first[m:, m:] + RIDGE * np.diag(np.diag(first[m:, m:]))
    mix = solve(lifted, first[m:, :m])
    total = float(np.sum(metric * second[:m, :m]))
    if total <= 0.0:
        return 1.0, 0
    passed = mix.T @ second[m:, m:] @ mix
    explained = 2.0 * np.sum(metric * (mix.T @ second[m:, :m])) - np.sum(metric * passed)
    values = axes(root(passed).root, metric).values
    rank = int(np.searchsorted(np.cumsum(values), 0.99 * values.sum())) + 1
    return float(explained / total), min(rank, m)
