"""Units that make nearly the same are merged: folding by k-means."""

from typing import Any

import numpy as np

from linjax.baselines.budget import Evidence, inner, largest, same_share, unfolded
from linjax.dims.rows import kernel_rows
from linjax.dims.sites import Form
from linjax.fold.engine.choose import Choice, alike
from linjax.fold.rewrite import write
from linjax.fold.rules import Size
from linjax.fold.written import begun, finished

Array = np.ndarray

ROUNDS = 25
RESTARTS = 3


def clustered(params: Any, stats: Evidence, rule: Size) -> Any:
    """Puts units into clusters by the kernels that make them, and merges each cluster into one.

    What makes a cluster's units and what lies on their way is averaged, their readers' rows are
    added. All sites with an activation keep the same share of their units. Batch norm is to be
    repaired afterwards, by :func:`linjax.baselines.recalibrated`. No data are used: of the
    evidence only the network matters.

    Reference: Wang et al., Forget the data and fine-tuning! Just fold the network to compress,
    ICLR 2025, arXiv 2502.10216.
    """
    known = unfolded(params, stats)
    network, prices = known.stats.network, known.prices(rule)
    flat = network.flatten(params)
    sites = known.problems.sites
    pairs = zip(inner(network), sites, strict=True)
    narrow = [inside and site.form is Form.BENT for inside, site in pairs]

    def units(share: float) -> tuple[int, ...]:
        return same_share(known.problems, narrow, share)

    share = largest(
        lambda share: prices.cost(prices.start._replace(units=units(share))),
        rule.fraction * prices.cost(prices.start),
        rule,
    )
    now = begun(network, flat)
    for site, count in zip(sites, units(share), strict=True):
        if count < site.width:
            own = np.concatenate([*kernel_rows(network, flat, site, site.makers)], axis=1)
            labels = np.stack([k_means(rows.T, count) for rows in own])
            now = write(network, now, site, merged(labels, count, len(site.points)))
    return finished(now.flat, params)


def merged(labels: Array, count: int, points: int) -> Choice:
    """The fold that takes the mean of each cluster for all of its units.

    Args:
      labels: ``(n, m)`` the cluster of every unit.
      count: number of clusters.
      points: number of places where the units are read.
    """
    member = (labels[:, None] == np.arange(count)[:, None]).astype(np.float64)
    mean = (member / np.maximum(member.sum(-1, keepdims=True), 1)).swapaxes(1, 2)
    kept = np.tile(np.arange(count), (len(labels), 1))
    return alike(kept, member, points, mean)


def k_means(rows: Array, count: int) -> Array:
    """Returns the cluster of each row: Lloyd's rounds from k-means++ starts, the best of a few.

    >>> k_means(np.array([[0.0], [0.1], [5.0], [5.1]]), 2).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])
    True
    """
    best, least = np.zeros(len(rows), int), np.inf
    for seed in range(RESTARTS):
        centres = _spread(rows, count, np.random.default_rng(seed))
        for _ in range(ROUNDS):
            apart = _distances(rows, centres)
            labels = apart.argmin(1)
            for own in np.setdiff1d(np.arange(count), labels):  # a cluster takes the farthest row
                labels[np.argmax(apart[np.arange(len(rows)), labels])] = own
                apart[labels == own, own] = 0.0
            sums = np.zeros_like(centres)
            np.add.at(sums, labels, rows)
            centres = sums / np.bincount(labels, minlength=count)[:, None]
        error = float(np.sum((rows - centres[labels]) ** 2))
        if error < least:
            best, least = labels, error
    return best


def _spread(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """First centres: each row by its distance from those before it."""
    chosen = [int(rng.integers(len(rows)))]
    apart = _distances(rows, rows[chosen])[:, 0]
    for _ in range(count - 1):
        total = apart.sum()
        weights = apart / total if total > 0 else None
        chosen.append(int(rng.choice(len(rows), p=weights)))
        apart = np.minimum(apart, _distances(rows, rows[chosen[-1:]])[:, 0])
    return rows[chosen]


def _distances(rows: Array, centres: Array) -> Array:
    squares = np.sum(rows**2, 1)[:, None] + np.sum(centres**2, 1)
    return np.maximum(squares - 2 * rows @ centres.T, 0.0)
