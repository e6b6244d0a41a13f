"""Modules compressed by what they are: MoDeGPT's three decompositions and its block budget."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from linjax.baselines.budget import Evidence, inner, largest, unfolded
from linjax.baselines.streams import blocks_of, influence
from linjax.dims.network import Network
from linjax.dims.rows import kernel_rows
from linjax.dims.sites import Form, Site
from linjax.evidence.moments import PointMoments, about_zero
from linjax.fold.engine.choose import Choice, alike, taking
from linjax.fold.engine.linalg import solve
from linjax.fold.rewrite import write
from linjax.fold.rules import Size
from linjax.fold.written import begun, finished
from linjax.net import Net
from linjax.program import pytree

Array = np.ndarray

TEMPER = 1.0
"""How evenly blocks are cut: where it is small, those that turn the stream little go first. Its
authors tune it for each network; on small ones even cuts do better than with their 0.1."""
RIDGE = 1e-2
"""Of the mean second moment, in the leverage scores and the regressions."""
MOST = 0.95
"""A block loses at most this share."""


def modular(net: Net, params: Any, stats: Evidence, batches: Iterable[Any], rule: Size) -> Any:
    """Units by Nyström's approximation, queries and keys by CR's, values by singular values.

    Blocks are cut by the softmax of ``−s / ε``, s how far they turn the residual stream. Second
    moments are about zero, and kernels get no biases. Those of values are taken where they are
    read, behind the mixing by attention; the published method takes them in front of it.

    Reference: Lin et al., MoDeGPT: Modular decomposition for large language model compression,
    ICLR 2025, arXiv 2408.09632.
    """
    known = unfolded(params, stats)
    network, flat, prices = net.network, net.network.flatten(params), known.prices(rule)
    widths = np.array([p.width for p in known.problems.problems])
    own, loss = np.array(inner(network), bool), _shares(net, flat, batches)

    def units(share: float) -> Array:
        kept = 1 - np.minimum((1 - share) * loss, MOST)
        return np.where(own, np.maximum(1, np.round(kept * widths)), widths).astype(int)

    share = largest(
        lambda share: prices.cost(prices.start._replace(units=tuple(units(share).tolist()))),
        rule.fraction * prices.cost(prices.start),
        rule,
    )
    now = begun(network, flat)
    every = zip(known.problems.sites, known.stats.points, units(share), strict=True)
    for site, points, count in every:
        if count < site.width:
            choice = _chosen(network, flat, site, points, int(count))
            now = write(network, now, site, choice)
    return finished(now.flat, params)


def _shares(net: Net, flat: pytree.Flat, batches: Iterable[Any]) -> Array:
    """How much more than others each site loses: 1 on average over the blocks."""
    blocks, shares = blocks_of(net.network), np.ones(len(net.network.foldable))
    if blocks:
        scores = -influence(net, flat, batches) / TEMPER
        weights = np.exp(scores - scores.max())
        weights *= len(blocks) / weights.sum()
        for block, weight in zip(blocks, weights, strict=True):
            shares[list(block.sites)] = weight
    return shares


def _chosen(
    network: Network, flat: pytree.Flat, site: Site, points: tuple[PointMoments, ...], count: int
) -> Choice:
    moments = np.stack([_about_zero(p, site.width) for p in points])
    total = moments.sum(0)
    if site.form is Form.STRAIGHT:
        return _singular(network, flat, site, total, count)
    if site.form is Form.PAIRED:
        scores = np.prod([np.sqrt(np.einsum("nii->ni", c)) for c in moments], axis=0)
        return _kept(site, np.zeros_like(moments[0]), _best(scores, count))
    lifted = total + _lift(total)
    leverage = np.einsum("nii->ni", np.stack(list(map(solve, lifted, total))))
    return _kept(site, total, _best(leverage, count))


def _about_zero(point: PointMoments, width: int) -> Array:
    """Second moments about zero of the coordinates at a point: ``(n, m, m)``."""
    total = np.sum(about_zero(point).scatter, axis=0)
    return np.asarray(total / np.sum(point.count))[:, :width, :width]


def _lift(moments: Array) -> Array:
    size = moments.shape[-1]
    return RIDGE * np.einsum("nii->n", moments)[:, None, None] / size * np.eye(size)


def _best(scores: Array, count: int) -> Array:
    return np.sort(np.argsort(-scores, axis=-1, kind="stable")[:, :count], axis=-1)


def _kept(site: Site, moments: Array, kept: Array) -> Choice:
    """Keeps coordinates; readers get ``(Sᵀ C S)⁻¹ Sᵀ C`` of their rows, S that takes them."""
    decode = taking(kept, site.width)
    for repeat in range(len(kept)):
        own, c = kept[repeat], moments[repeat]
        if c.any():
            decode[repeat] = solve((c + _lift(c[None])[0])[np.ix_(own, own)], c[own])
    return alike(kept, decode, len(site.points))


def _singular(
    network: Network, flat: pytree.Flat, site: Site, moments: Array, count: int
) -> Choice:
    """The best directions of ``C^{1/2} W'``, W' the readers' rows."""
    rows = np.concatenate([*kernel_rows(network, flat, site, site.readers)], 1).swapaxes(1, 2)
    bases, decodes = [], []
    for c, w in zip(moments + 1e-4 * _lift(moments), rows, strict=True):
        values, vectors = np.linalg.eigh(c)
        root, inverse = (vectors * values**e @ vectors.T for e in (0.5, -0.5))
        left = np.linalg.svd(root @ w, full_matrices=False)[0][:, :count]
        left = np.pad(left, ((0, 0), (0, count - left.shape[1])))
        bases.append(inverse @ left)
        decodes.append(left.T @ root)
    kept = np.tile(np.arange(count), (len(rows), 1))
    return alike(kept, np.stack(decodes), len(site.points), np.stack(bases))
