"""How linear each unit is, and what folding it would cost."""

from typing import Any, NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.rows import kernel_rows
from linjax.dims.sites import Product, Site
from linjax.evidence.given import as_evidence
from linjax.evidence.stats import Stats, UnitStats
from linjax.program import pytree
from linjax.report import table

Array = Any


class UnitScores(NamedTuple):
    """Scores of one site's units, ``(k,)`` float64 arrays; ``(n, k)`` where it has n repeats.

    Where units have no pre-activation of their own (products of several) the line is the identity.

    Attributes:
      rate: activation rate ``P(z > 0)``.
      slope: ``a = Cov(h, z) / Var(z)`` of the least-squares line ``a z + c``; 0 for a
        constant pre-activation.
      intercept: ``c = E h − a E z``.
      r2: share of the activation's variance that the line explains; 1 for a constant one.
      error: mean squared error in the readers' results if the unit is replaced by its line:
        ``(1 − R²) Var(h) ‖W'_i‖²``; where second moments are known that of the outputs, in the
        output metric: ``(1 − R²) Var(h) Q_ii``.
    """

    rate: Array
    slope: Array
    intercept: Array
    r2: Array
    error: Array


class Scores(NamedTuple):
    """Scores of a network's units by site; prints as a table."""

    sites: dict[str, UnitScores]

    def __getitem__(self, name: str) -> UnitScores:  # type: ignore[override]
        return self.sites[name]

    def __repr__(self) -> str:
        header = ("site", "units", "rate ≥ .95", "rate = 0", "median R²", "R² ≥ .99", "error")
        rows = [
            (
                name,
                np.size(s.rate),
                int(np.sum(s.rate >= 0.95)),
                int(np.sum(s.rate == 0)),
                f"{np.median(s.r2):.3f}" if np.size(s.r2) else "–",
                int(np.sum(s.r2 >= 0.99)),
                f"{np.sum(s.error):.3g}",
            )
            for name, s in self.sites.items()
        ]
        return table.grid(header, rows)


def score(params: Any, stats: Stats) -> Scores:
    """Scores every unit: activation rate, best line through its activation, cost of folding.

    Args:
      params: the pytree that the evidence was collected on.
      stats: evidence of :func:`collect`.

    Returns:
      :class:`Scores`: ``(k,)`` arrays by site; printed, a table.

    Raises:
      StructureError: if params isn't the network of the evidence.
      EvidenceError: if stats isn't :class:`Stats`, or of differently folded parameters.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> x = jnp.array([[1.0, -1.0, 2.0], [3.0, -2.0, -1.0]])
      >>> stats = linjax.collect(linjax.trace(apply, params, x), params, [x])
      >>> linjax.score(params, stats)["in"].slope.round(3).tolist()
      [1.0, 0.0, 0.667]
    """
    as_evidence(params, stats)
    flat = stats.network.flatten(params)
    result = {}
    for index, (site, units) in enumerate(zip(stats.sites, stats.seen, strict=True)):
        k = units.active.shape[-1]
        if stats.points:
            worth = sum(np.einsum("nii->ni", p.metric) * p.places for p in stats.points[index])
        else:
            worth = norms(stats.network, flat, site, site.readers)
        result[site.name] = _score(units, worth[:, :k].reshape(units.active.shape))
    return Scores(result)


def norms(network: Network, flat: pytree.Flat, site: Site, products: tuple[Product, ...]) -> Array:
    """Squared norms of what some products' kernels have for each of a site's coordinates."""
    rows = kernel_rows(network, flat, site, products)
    return sum((np.sum(own**2, axis=1) for own in rows), start=np.zeros(()))


def _score(u: UnitStats, worth: Array) -> UnitScores:
    zz, hh, zh = u.scatter
    slope = np.divide(zh, zz, out=np.zeros_like(zh), where=zz > 0)
    left = np.maximum(hh - slope * zh, 0.0)
    r2 = 1.0 - np.divide(left, hh, out=np.zeros_like(hh), where=hh > 0)
    return UnitScores(
        rate=u.rate,
        slope=slope,
        intercept=u.mean_h - slope * u.mean_z,
        r2=r2,
        error=left / (float(u.count) or 1.0) * worth,
    )
