"""Uniform pruning of all sites, with and without a refit: what others do."""

from collections.abc import Callable
from typing import Any

import numpy as np

from linjax.baselines.budget import budget_of, inner, largest, rows_of, widths_of
from linjax.dims.sites import Form, Product, Site
from linjax.evidence.stats import Stats
from linjax.fold.engine.choose import keeping
from linjax.fold.landscape import Landscape, landscape
from linjax.fold.rewrite import begun, finished, write
from linjax.fold.rules import Size
from linjax.graph import pytree

Array = np.ndarray
Score = Callable[[Landscape, pytree.Flat, int], Array]

RIDGE = 1e-3


def means(known: Landscape, flat: pytree.Flat, index: int) -> Array:
    """Mean of a site's coordinates where they are read: ``(n, m)``."""
    del flat
    moments = known.problems.problems[index].points[0].moments
    width = known.problems.problems[index].width
    return np.average(moments.mean, axis=0, weights=moments.count)[:, :width]


def norms(known: Landscape, flat: pytree.Flat, index: int) -> Array:
    """Norms of the kernels that make coordinates (arXiv 1608.08710)."""
    site = known.problems.sites[index]
    return np.sqrt(_squares(known, flat, site, site.makers))


def energies(known: Landscape, flat: pytree.Flat, index: int) -> Array:
    """``E h² ‖w'‖²`` of the coordinates, summed over their readers."""
    site, problem = known.problems.sites[index], known.problems.problems[index]
    moments = problem.points[0].moments
    weights = moments.count / moments.count.sum()
    seen = np.einsum("fnii->fni", moments.covariance) + moments.mean**2
    return np.tensordot(weights, seen, 1)[:, : problem.width] * _squares(
        known, flat, site, site.readers
    )


def _squares(
    known: Landscape, flat: pytree.Flat, site: Site, products: tuple[Product, ...]
) -> Array:
    """Squared norms of what kernels have for each coordinate; 1 where no kernel has anything."""
    if not products:
        return np.ones(1)
    return np.sum(rows_of(known.stats.network, flat, site, products) ** 2, axis=1)


def pruned(params: Any, stats: Stats, rule: Size, score: Score, refit: bool) -> Any:
    """Keeps the same share of all sites but streams, the coordinates with the highest scores.

    Raises:
      LinjaxError: if one coordinate of each site is still too much.
    """
    known = landscape(params, stats)
    budget, widths = budget_of(stats.network, rule), widths_of(stats.network)
    pairs = [site.form is Form.PAIRED for site in stats.network.foldable]  # no refit helps there
    own = inner(stats.network) & ~np.array(pairs, bool)

    def units(share: float) -> Array:
        return np.where(own, np.maximum(1, np.round(share * widths)), widths).astype(int)

    share = largest(rule, budget, lambda share: budget.cost(units(share)))
    return _narrowed(params, known, score, tuple(units(share)), refit)


def removed(params: Any, stats: Stats, fraction: float, scope: str) -> Any:
    """Removes the share of all coordinates that are above zero least often."""
    known = landscape(params, stats)
    rates = [own[0].active.sum(0) / max(own[0].count.sum(), 1e-30) for own in stats.points]
    widths = [problem.width for problem in known.problems.problems]
    if scope == "layer":
        units = tuple(max(1, w - round(fraction * w)) for w in widths)
    else:
        pooled = np.sort(np.concatenate([r.ravel() for r in rates]))
        limit = pooled[min(round(fraction * len(pooled)), len(pooled) - 1)]
        units = tuple(max(1, int(np.sum(r >= limit) / len(r))) for r in rates)
    return _narrowed(params, known, lambda _k, _f, i: rates[i], units, refit=False)


def _narrowed(
    params: Any, known: Landscape, score: Score, units: tuple[int, ...], refit: bool
) -> Any:
    flat = pytree.flatten(params)
    now = begun(known.stats.network, flat)
    both = zip(known.problems.sites, known.problems.problems, known.problems.points, strict=True)
    for index, (site, problem, points) in enumerate(both):
        if units[index] >= problem.width:
            continue
        order = np.argsort(-score(known, flat, index), axis=-1, kind="stable")
        kept = np.sort(order[:, : units[index]], axis=-1)
        choice = keeping(problem, kept, RIDGE, refit)
        decode = tuple(choice.decode[p] for p in points)
        offset = tuple(choice.offset[p] for p in points)
        now = write(known.stats.network, now, site, choice._replace(decode=decode, offset=offset))
    return finished(now.flat, params)
