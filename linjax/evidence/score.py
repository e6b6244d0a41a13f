"""How linear each unit is, and what folding it would cost."""

from typing import Any, NamedTuple

import numpy as np

from linjax.errors import EvidenceError
from linjax.evidence.points import PointMoments
from linjax.evidence.stats import Stats, UnitStats
from linjax.fold.engine.problem import Moments, frame
from linjax.graph import pytree, table
from linjax.graph.chains import read_chain

Array = Any


class UnitScores(NamedTuple):
    """Scores of one site's units, ``(k,)`` float64 arrays.

    Attributes:
      rate: activation rate ``P(z > 0)``.
      slope: ``a = Cov(h, z) / Var(z)`` of the least-squares line ``a z + c``; 0 for a
        constant pre-activation.
      intercept: ``c = E h − a E z``.
      r2: share of the activation's variance that the line explains; 1 for a constant one.
      error: mean squared error in the consumers' outputs if the unit is replaced by its
        line: ``(1 − R²) Var(h) ‖W'_i‖²``, in the output metric G where second moments
        are known, ``w'_iᵀ G w'_i`` instead of the norm.
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
                len(s.rate),
                int(np.sum(s.rate >= 0.95)),
                int(np.sum(s.rate == 0)),
                f"{np.median(s.r2):.3f}" if len(s.r2) else "–",
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
    if not isinstance(stats, Stats):
        raise EvidenceError(f"expected Stats, got {type(stats).__name__}")
    flat = pytree.flatten(params)
    if stats.network is not None:
        pytree.check_known(stats.network, flat)
        pairs = zip(stats.sites, stats.points, strict=True)
        return Scores({site.name: _score_point(own[0], site.width) for site, own in pairs})
    pytree.check_leaves(stats.graph, flat)
    units = dict(zip((s.name for s in stats.graph.sites), stats.units, strict=True))
    result = {}
    for position, chain in enumerate(stats.graph.chains):
        layers = read_chain(stats.graph, flat, chain)
        for depth, site in enumerate(chain.sites):
            k = layers[depth].units
            if k != len(units[site.name].active):
                raise EvidenceError(
                    f"{site.name}: {k} units, but the evidence is about "
                    f"{len(units[site.name].active)}; collect on these parameters"
                )
            follower = layers[depth + 1]
            down = np.eye(follower.reads) if follower.down is None else follower.down
            outgoing = down[:k] @ follower.kernels
            metric = None
            if stats.moments is not None:
                metric = stats.moments[position].sensitivity[depth + 1]
            result[site.name] = _score(units[site.name], outgoing, metric)
    return Scores(result)


def _score_point(point: PointMoments, width: int) -> UnitScores:
    """Scores coordinates where they are read; without linear ones nothing is known of lines."""
    count = max(float(point.count.sum()), 1e-30)
    seen = frame(Moments(point.count, point.mean, point.scatter / point.count[:, None, None, None]))
    n, wide = point.mean.shape[1], point.mean.shape[2] > width
    hh = np.einsum("nii->ni", seen.covariance)[:, :width]
    zz = np.einsum("nii->ni", seen.covariance)[:, width:] if wide else np.zeros((n, width))
    zh = np.einsum("nii->ni", seen.covariance[:, width:, :width]) if wide else zz
    slope = np.divide(zh, zz, out=np.zeros_like(zh), where=zz > 0)
    left = np.maximum(hh - slope * zh, 0.0)
    mean_z = seen.mean[:, width:] if wide else 0.0
    return UnitScores(
        rate=(point.active.sum(0) / count).reshape(-1),
        slope=slope.reshape(-1),
        intercept=(seen.mean[:, :width] - slope * mean_z).reshape(-1),
        r2=(1.0 - np.divide(left, hh, out=np.zeros_like(hh), where=hh > 0)).reshape(-1),
        error=(left * np.einsum("nii->ni", point.metric) * float(point.places)).reshape(-1),
    )


def _score(u: UnitStats, outgoing: Array, metric: Array | None) -> UnitScores:
    zz, hh, zh = u.scatter
    varies = zz > 0
    slope = np.divide(zh, zz, out=np.zeros_like(zh), where=varies)
    left = np.maximum(hh - slope * zh, 0.0)
    r2 = 1.0 - np.divide(left, hh, out=np.zeros_like(hh), where=hh > 0)
    weighted = outgoing if metric is None else outgoing @ metric
    norms = np.maximum(np.einsum("iq,iq->i", weighted, outgoing), 0.0)
    return UnitScores(
        rate=u.rate,
        slope=slope,
        intercept=u.mean_h - slope * u.mean_z,
        r2=r2,
        error=left / (float(u.count) or 1.0) * norms,
    )
