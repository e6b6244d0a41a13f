"""Activation-based pruning, the published baseline: units that fire least go first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from linjax.dims.network import Network
from linjax.dims.spelled import spelled, vanished
from linjax.errors import EvidenceError, LinjaxError
from linjax.evidence.given import as_values, is_number
from linjax.evidence.stats import Stats
from linjax.fold.engine.choose import alike, taking
from linjax.fold.matching import matching
from linjax.fold.rewrite import write
from linjax.fold.written import begun, finished_past

Array = np.ndarray


def prune(params: Any, stats: Stats, *, keep: float, scope: str = "network") -> Any:
    """Removes the units with the lowest activation rate.

    A removed unit's activation counts as zero: its columns of the producer's kernel and
    bias go, and its rows of the consumers'. Nothing is refitted; every layer keeps at
    least one unit.

    Args:
      params: the pytree that the evidence was collected on.
      stats: activation rates.
      keep: share of the units that stay, in [0, 1], as :func:`size` names what stays.
      scope: ``"network"`` ranks all units together, ``"layer"`` keeps the same share
        of every layer.

    Returns:
      The narrower pytree, a nested dict.

    Raises:
      LinjaxError: if keep or scope is out of range.
      StructureError, EvidenceError: as for :func:`fold`.

    References:
      Activation-based pruning of neural networks, Algorithms 17(1):48, 2024; combined with
      folding in Dobler and Lemmerich, 2025, arXiv 2506.21146.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> x = jnp.array([[1.0, -1.0, 2.0], [3.0, -2.0, -1.0]])
      >>> stats = linjax.collect(linjax.trace(apply, params, x), params, [x])
      >>> linjax.prune(params, stats, keep=0.66)["in"].shape
      (3, 2)
    """
    if not is_number(keep) or not 0 <= keep <= 1:
        raise LinjaxError(f"keep = {keep!r}, expected a share in [0, 1]")
    if scope not in ("network", "layer"):
        raise LinjaxError(f"scope = {scope!r}, expected 'network' or 'layer'")
    if not isinstance(stats, Stats):
        raise EvidenceError(f"expected Stats, got {type(stats).__name__}")
    as_values(params)
    if not matching(params, stats):
        return params
    return selected(params, stats.network, _kept(stats, 1 - keep, scope))


def selected(params: Any, network: Network, kept: Sequence[Array]) -> Any:
    """Keeps some units of every site; the activations of the others count as zero.

    Args:
      params: a pytree of the network.
      network: its dimensions.
      kept: by foldable site the units that stay, ascending: ``(n, k)`` for n repeats.
    """
    flat = network.flatten(params)
    now = begun(network, spelled(network, flat))
    for site, own in zip(network.foldable, kept, strict=True):
        width, total = now.kept[site.dim], now.sizes[site.dim]
        if own.shape[-1] < width and site.norms is None:  # norms would see that some are gone
            beside = np.broadcast_to(np.arange(width, total), (len(own), total - width))
            stays = np.concatenate([own, beside], axis=-1)
            choice = alike(stays, taking(stays, total), len(site.points))
            now = write(network, now, site, choice)
    return finished_past(network, now.flat, params, vanished(network, flat))


def _kept(stats: Stats, fraction: float, scope: str) -> list[Array]:
    """The units that stay, ascending: ``(n, k)`` by site, n repeats keeping as many each."""
    rates = [np.atleast_2d(own.rate) for own in stats.seen]
    if scope == "layer":
        units = [r.shape[-1] - round(fraction * r.shape[-1]) for r in rates]
    else:
        pooled = np.concatenate([r.ravel() for r in rates])
        stays = np.ones(len(pooled), bool)
        stays[np.argsort(pooled, kind="stable")[: round(fraction * len(pooled))]] = False
        parts = np.split(stays, np.cumsum([r.size for r in rates])[:-1])
        units = [round(own.sum() / len(r)) for own, r in zip(parts, rates, strict=True)]
    order = [np.argsort(r, axis=-1, kind="stable") for r in rates]  # ties go in order
    found = zip(order, rates, units, strict=True)
    return [np.sort(o[:, r.shape[-1] - max(1, k) :], axis=-1) for o, r, k in found]
