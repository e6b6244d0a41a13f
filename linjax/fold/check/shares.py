"""What every site and kernel of a plan has to do with the error that the plan is measured to make.

Along the straight line from the network's leaves w to those of the plan carried out in place,
``w + t Δ``, the divergence L of the outputs grows by ``Σ ∂L/∂w · Δ``: integrated over t, terms add
up to L(1) (Aumann & Shapley 1974; integrated gradients: Sundararajan et al., 2017,
arXiv 1703.01365). Each term belongs to the leaf of a kernel, thus to the site that it reads, or to
the kernel itself where it is factored. Errors that reinforce each other, place by place or
layer by layer, are in it, and so is what is beyond the first order.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.memory import replayed
from linjax.dims.network import Network
from linjax.dims.run import execute
from linjax.evidence.objective import divergence
from linjax.fold.check.in_place import InPlace
from linjax.fold.compare import error_of, outputs_apart
from linjax.fold.rows import SPACE, Batch, size_of
from linjax.net import Net
from linjax.program import pytree

Array = Any

NODES = ((1 / 3, 0.75), (1.0, 0.25))
"""Where slopes are taken, and their weights: exact for quadratic slopes (Radau 1880)."""
START = np.float32(1e-6)
"""Where nothing but streams that norms run over is folded."""
LOST = 0.5
"""Part of the error by which its shares may miss it."""
TOGETHER = 128
"""Rows that derivatives are taken on at a time, at most."""


class Shares(NamedTuple):
    """What a plan's error consists of.

    Attributes:
      sites: ``(S,)`` what sites have to do with it, twice the divergence of an example.
      kernels: ``(K,)`` what factored kernels have.
      total: twice the divergence of an example, of which these are shares.
      error: relative output error, as :func:`linjax.compare` measures it.
    """

    sites: np.ndarray
    kernels: np.ndarray
    total: float
    error: float

    @property
    def complete(self) -> bool:
        """Whether the shares add up; they don't where outputs change without derivatives."""
        found = float(self.sites.sum() + self.kernels.sum())
        return bool(abs(found - self.total) <= LOST * self.total)


class Measured(NamedTuple):
    """Twice the divergence summed over rows, and how far the outputs are."""

    total: Array
    apart: Any


class Goals(NamedTuple):
    """Rows in chunks, the networks traced for these, and the original's outputs."""

    chunks: tuple[tuple[Network, list[Array], Any], ...]
    total: int


def goals(net: Net, params: Any, rows: Batch) -> Goals:
    """Cuts rows into chunks that derivatives are taken on at once, and runs the original."""
    flat, count = net.network.flatten(params), size_of(rows)
    step = int(min(max(SPACE / (2 * max(replayed(net.network), 1.0)), 1), TOGETHER, count))
    chunks = []
    for start in range(0, count - count % step, step):
        part = jax.tree.map(lambda x, a=start: jnp.asarray(x[a : a + step]), rows)
        network, leaves = net.network_for(flat, part), jax.tree.leaves(part)
        chunks.append((network, leaves, _outputs(network, flat, leaves)))
    return Goals(tuple(chunks), count - count % step)


def shares(own: InPlace, rows: Goals, counts: tuple[int, int], metric: str) -> Shares:
    """Measures what a plan's sites and kernels have to do with its error.

    Args:
      own: the plan, carried out in place.
      rows: what to measure on.
      counts: of sites and of kernels.
      metric: output metric.
    """
    moved = {p: x for p, x in own.after.items() if _differs(x, own.before[p])}
    change = {p: _wide(x) - _wide(own.before[p]) for p, x in moved.items()}
    before = {p: jnp.asarray(x) for p, x in own.before.items()}
    factoring = {p: _wide(own.factored[p]) - _wide(own.before[p]) for p in own.kernels}
    sites, kernels = np.zeros(counts[0]), np.zeros(counts[1])
    total, apart = 0.0, list[Any]()
    for index, (network, leaves, goal) in enumerate(rows.chunks):
        for at, weight in NODES:
            slopes, found = _slopes(
                network, change, before, leaves, goal, np.float32(at), index, metric
            )
            for path, slope in slopes.items():
                slope = np.asarray(slope, np.float64) * (weight / rows.total)
                first = float(np.sum(slope * factoring[path])) if path in factoring else 0.0
                _deal(kernels, own.kernels.get(path, ()), first)
                _deal(sites, own.sites.get(path, ()), float(np.sum(slope * change[path])) - first)
        if own.streams:
            _, first = _slopes(network, change, before, leaves, goal, START, index, metric)
            sites[list(own.streams)] += float(first.total) / rows.total / len(own.streams)
        total += float(found.total) / rows.total  # of the last node, the plan itself
        apart.append(found.apart)
    return Shares(sites, kernels, total, error_of(apart))


def _deal(found: np.ndarray, parts: Iterable[int], share: float) -> None:
    parts = list(parts)
    found[parts] += share / max(len(parts), 1)


def _wide(leaf: Array) -> np.ndarray:
    return np.asarray(leaf).astype(np.float32)


def _differs(one: Array, other: Array) -> bool:
    floating = jnp.issubdtype(jnp.asarray(one).dtype, jnp.floating)
    return bool(floating and np.size(one) and np.any(np.asarray(one) != np.asarray(other)))


@functools.partial(jax.jit, static_argnames=("network",))
def _outputs(network: Network, flat: pytree.Flat, leaves: list[Array]) -> Any:
    return execute(network, flat, leaves).outputs


@functools.partial(jax.jit, static_argnames=("network", "metric"))
def _slopes(
    network: Network, change: pytree.Flat, before: pytree.Flat, leaves: list[Array], goal: Any,
    at: Array, index: Array, metric: str,
) -> tuple[pytree.Flat, Measured]:  # fmt: skip
    """Slopes of twice the divergence by the leaves at a share of the change; what it is there."""

    def loss(change: pytree.Flat) -> tuple[Array, Any]:
        moved = {p: (before[p] + at * x).astype(before[p].dtype) for p, x in change.items()}
        outputs = execute(network, {**before, **moved}, leaves).outputs
        return 2 * divergence(outputs, goal, metric), outputs

    (total, outputs), slopes = jax.value_and_grad(loss, has_aux=True)(change)
    slopes = jax.tree.map(lambda x: x / at, slopes)
    return slopes, Measured(total, outputs_apart(goal, outputs, metric, index))
