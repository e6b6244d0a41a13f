"""Refitting a folded network with convolutions, layer by layer, on its own activations.

Widths, channels and linear channels are those of the one-shot fold. In the order of execution
the kernel of every convolution, and of every dense layer of a chain, is refitted so that the
original's pre-activations are reproduced from what the folded network feeds it, which also
corrects the errors made before it. Where the result is added to another branch, the sum is
aimed at. One pass over the rows a layer, second moments of one layer's patches at a time.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from linjax.evidence import sums
from linjax.evidence.channels import FEATURES, PLACES
from linjax.evidence.moments import Moments, merge_scatter
from linjax.fold.channels.network import Network
from linjax.fold.channels.slots import Matrices, slot
from linjax.fold.channels.surface import Choice
from linjax.fold.least_squares.directions import solve
from linjax.fold.least_squares.features import Frame, frame
from linjax.fold.objective import importance
from linjax.fold.report import SiteChange
from linjax.fold.rows import Batch, size_of
from linjax.graph import pytree, reads
from linjax.graph.net import Net

Array = Any

WORK = 1e13
"""Floating point operations that all passes may take; beyond, fewer rows are looked at."""
CHUNK = 250
"""Rows that run at a time."""
RIDGES = (1e-5, 1e-3, 3e-2, 0.5)
"""Weights of the diagonal that are compared on held-out rows, where patches are few."""
FOLDS = 2
"""Folds of the rows, for the choice of the shrinkage."""
WANTED = 50
"""Patches per feature from which the smallest shrinkage does."""
FEWEST = 200
"""Rows that are looked at, whatever the work."""
SAME = 1e-12
"""Share of the features' energy by which a folded network's may differ from the original's and
count as untouched."""


class Seen(NamedTuple):
    """What one layer was measured to read.

    Attributes:
      moments: weighted moments of [features, target], in ``FOLDS`` folds.
      samples: number of patches.
      apart: how far the features are from the original's, as a share of their energy.
    """

    moments: Moments
    samples: int
    apart: float


def refit_in_order(
    net: Net, network: Network, flat: pytree.Flat, made: Sequence[Choice],
    changes: dict[str, SiteChange], rows: Batch, metric: str,
) -> pytree.Flat:  # fmt: skip
    """Refits all kernels of a folded network in the order of execution.

    Args:
      net: the traced network.
      network: its parameters before the fold, read.
      flat: the folded pytree.
      made: what every site keeps.
      changes: what became of every site, those of dense chains too.
      rows: calibration rows, as one batch on the host.
      metric: output metric; rows are weighed by how much their outputs can still move.

    Returns:
      The flat pytree with refitted kernels, in the shapes that it had.
    """
    original = pytree.unflatten(network.flat)
    chosen = dict(zip((site.name for site in network.sites), made, strict=True))
    names = _order(net, original, rows)
    rows = _affordable(net, network.flat, flat, rows, len(names))
    data = list(_weighed(net, original, rows, metric))
    for name in names[_first_change(net, network.flat, flat, names) + 1 :]:
        found = slot(network, flat, changes, chosen, name)
        if found is None or not found.matrices.kernel.size:
            continue
        m = found.matrices
        if len(m.kernel) <= FEATURES:
            seen = _gather(net, original, pytree.unflatten(flat), data, name, m)
            if seen.apart > SAME:
                flat = found.write(flat, *_solved(m, seen))
    return flat


def _first_change(net: Net, before: pytree.Flat, after: pytree.Flat, names: list[str]) -> int:
    """The first map that the fold changed: what this one and those before it read is the same."""
    paths = {affine.name: affine.kernel for affine in net.graph.affines}
    paths |= {conv.name: conv.kernel for conv in net.graph.convolutions}
    changed = (before.get(paths[name]) is not after.get(paths[name]) for name in names)
    return next((i for i, is_changed in enumerate(changed) if is_changed), len(names))


def _order(net: Net, params: Any, rows: Batch) -> list[str]:
    """Names of all maps in the order of execution."""
    names: list[str] = []

    def run() -> Any:
        found = net.reads(params, *jax.tree.map(lambda x: x[:1], rows))
        names.extend(found)
        return [read.value for read in found.values()]

    jax.eval_shape(run)
    return names


def _affordable(net: Net, before: pytree.Flat, after: pytree.Flat, rows: Batch, maps: int) -> Batch:
    """As many rows as ``WORK`` allows; a pass runs both networks up to a layer."""
    few = jax.tree.map(lambda x: x[:CHUNK], rows)
    once = sum(net.flops(pytree.unflatten(p), *few) for p in (before, after)) / size_of(few)
    most = max(int(WORK / max(once * maps / 2, 1.0)), FEWEST)
    return jax.tree.map(lambda x: x[:most], rows)


def _weighed(net: Net, original: Any, rows: Batch, metric: str) -> Any:
    """Yields the rows in chunks, each with the weights of its rows and a key for its places."""
    weigh = jax.jit(lambda part: importance(net.apply(original, *part), size_of(part), metric))
    total = size_of(rows)
    step = min(CHUNK, -(-total // FOLDS))
    for i, a in enumerate(range(0, total, step)):
        part = jax.tree.map(lambda x, a=a: jnp.asarray(x[a : a + step]), rows)
        yield part, weigh(part), jax.random.key(i)


@functools.partial(jax.jit, static_argnames=("net", "name"))
def _batch(
    net: Net, original: Any, folded: Any, part: Any, *, name: str, target: Array,
    down: Array | None, beside: Array,
) -> tuple[Array, ...]:  # fmt: skip
    """Moments on one batch: sum of weights, mean, centred scatter; differences and energy."""
    inputs, weight, key = part
    theirs, ours = (net.reads(p, *inputs)[name] for p in (original, folded))
    x, v = (reads.rows(r, PLACES, key).astype(jnp.float32) for r in (theirs, ours))
    z = jnp.matmul(x, target, precision=lax.Precision.HIGHEST)
    energy, apart = jnp.sum(x**2), jnp.float32(jnp.inf)
    if x.shape == v.shape:
        apart = jnp.sum((x - v) ** 2)
    if theirs.beside is not None and ours.beside is not None:
        drift = reads.beside_rows(theirs, PLACES, key) - reads.beside_rows(ours, PLACES, key)
        drift = beside * drift.astype(jnp.float32)
        apart = apart + jnp.sum(drift**2)
        z = z + drift if drift.shape == z.shape else z
    if down is not None:
        v = jnp.matmul(v, down, precision=lax.Precision.HIGHEST)
    both = jnp.concatenate([v, z], axis=1)
    places = len(both) // len(weight)
    return *sums.moments(both, jnp.repeat(weight, places)), apart, energy, places


def _gather(net: Net, original: Any, folded: Any, data: list[Any], name: str, m: Matrices) -> Seen:
    """Merges the batches' moments in float64."""

    def narrow(x: np.ndarray) -> Array:
        return jnp.asarray(x, jnp.float32)

    totals: dict[int, Any] = {}
    apart, energy, samples = 0.0, 0.0, 0
    for i, part in enumerate(data):
        *now, far, size, places = _batch(
            net, original, folded, part, name=name, target=narrow(m.target),
            down=None if m.down is None else narrow(m.down), beside=jnp.float32(m.whole),
        )  # fmt: skip
        own = tuple(np.asarray(x, np.float64) for x in now)
        before = totals.get(i % FOLDS)
        totals[i % FOLDS] = own if before is None else merge_scatter(*before, *own)
        apart, energy = apart + float(far), energy + float(size)
        samples += size_of(part[0]) * int(places)
    stacked = [np.stack(x) for x in zip(*totals.values(), strict=True)]
    moments = Moments(stacked[0], stacked[1], stacked[2], (), (len(stacked[1][0]),))
    return Seen(moments, samples, apart / max(energy, np.finfo(np.float64).tiny))


def _solved(m: Matrices, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that reproduce the target, shrunk towards those of the one-shot fold."""
    ridge = RIDGES[0]
    folds = list(range(len(seen.moments.count)))
    if len(folds) > 1 and seen.samples < WANTED * len(m.kernel):
        halves = [(frame(seen.moments, [f for f in folds if f != out]),
                   frame(seen.moments, [out])) for out in folds]  # fmt: skip
        ridge = min(RIDGES, key=lambda r: sum(_missed(_fitted(m, a, r), b) for a, b in halves))
    data = frame(seen.moments)
    kernel = _fitted(m, data, ridge)
    p = len(kernel)
    return kernel, data.mean[p:] - data.mean[:p] @ kernel + m.shift


def _fitted(m: Matrices, data: Frame, ridge: float) -> np.ndarray:
    p = len(m.kernel)
    covariance, cross = data.covariance[:p, :p], data.covariance[:p, p:]
    if m.groups:
        kernel = np.zeros_like(m.kernel)
        for rows, columns in m.groups:
            own = m.kernel[np.ix_(rows, columns)]
            within, between = covariance[np.ix_(rows, rows)], cross[np.ix_(rows, columns)]
            kernel[np.ix_(rows, columns)] = _nearest(own, within, between, ridge)
        return kernel
    return _nearest(m.kernel, covariance, cross, ridge)


def _nearest(
    kernel: np.ndarray, covariance: np.ndarray, cross: np.ndarray, ridge: float
) -> np.ndarray:
    """The kernel of least error, shrunk towards the one that is there."""
    raised = covariance + ridge * np.diag(np.diag(covariance))
    return kernel + solve(raised, cross - covariance @ kernel)


def _missed(kernel: np.ndarray, data: Frame) -> float:
    """The target's error with a kernel, but for the target's own variance."""
    p = len(kernel)
    covariance, cross = data.covariance[:p, :p], data.covariance[:p, p:]
    return float(np.sum(kernel * (covariance @ kernel - 2.0 * cross)))
