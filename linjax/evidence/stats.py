"""Evidence from data: what each unit did on a calibration set."""

import dataclasses
from typing import Any

import jax
import numpy as np

from linjax.dims.network import Network
from linjax.dims.sites import Site
from linjax.errors import EvidenceError
from linjax.evidence.moments import Moments, merge_scatter
from linjax.evidence.points import PointMoments, Points, merge_points
from linjax.graph.structure import Graph, Leaf

Array = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnitStats:
    """Statistics of one site's units over the samples seen, in float64.

    A sample is whatever the affine map runs over: a row, a position of a sequence.

    Attributes:
      count: number n of samples, int64; with weights their sum, floating unless they are whole.
      active: ``(k,)``, likewise, exact number of samples with ``z > 0``.
      mean_z: ``(k,)`` mean pre-activation.
      mean_h: ``(k,)`` mean activation.
      scatter: ``(3, k)`` centred sums: of z², of h², of z·h.
    """

    count: Array
    active: Array
    mean_z: Array
    mean_h: Array
    scatter: Array

    @property
    def rate(self) -> Array:
        """Activation rate ``P(z > 0)`` of each unit."""
        return self.active / (float(self.count) or 1.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stats:
    """Evidence from a calibration set, made by :func:`collect`; a pytree of NumPy arrays.

    Attributes:
      units: statistics by site, in the order of ``graph.sites``.
      moments: second moments by chain, None where they weren't asked for.
      graph: the network that the evidence is about.
      leaves: the parameter pytree that it was collected on.
      points: moments by site and point, where the network isn't one of dense chains.
      variation: mean square of the outputs about their mean, in the output metric, for an
        example; measured where there are points, else zero.
      network: the dimensions that the points are about.
      metric: the output metric that errors are measured in.
      sketch: of the parameters, to tell how far they have moved since.
    """

    units: tuple[UnitStats, ...]
    moments: tuple[Moments, ...] | None
    graph: Graph = dataclasses.field(metadata={"static": True})
    leaves: tuple[Leaf, ...] = dataclasses.field(metadata={"static": True})
    points: Points = ()
    variation: Array = 0.0
    network: Network | None = dataclasses.field(default=None, metadata={"static": True})
    metric: str = dataclasses.field(default="softmax", metadata={"static": True})
    sketch: Array = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that ``points`` are of, in their order."""
        return () if self.network is None else self.network.foldable

    @property
    def rates(self) -> dict[str, Array]:
        """Activation rates by site; where these aren't units of a chain, of values above zero."""
        others = {s.name: _rate(own[0]) for s, own in zip(self.sites, self.points, strict=False)}
        dense = zip(self.graph.sites, self.units, strict=True)
        return others | {site.name: u.rate for site, u in dense}

    def __repr__(self) -> str:
        counts = [(s.name, u.count) for s, u in zip(self.graph.sites, self.units, strict=True)]
        counts += [
            (s.name, own[0].count.sum()) for s, own in zip(self.sites, self.points, strict=False)
        ]
        samples = ", ".join(f"{name}: {int(count):,}" for name, count in counts)
        kind = "without" if self.moments is None else "with"
        return f"Stats({kind} second moments; metric {self.metric}; samples by site: {samples})"


def _rate(point: PointMoments) -> Array:
    """Share of the samples in which coordinates are above zero: ``(m,)``, or ``(n, m)``."""
    rate = point.active.sum(0) / max(float(point.count.sum()), 1e-30)
    return rate[0] if len(rate) == 1 else rate


def merge(a: Stats, b: Stats) -> Stats:
    """Merges evidence from two disjoint sets of rows of the same network.

    Equal to collecting on both sets at once: counts exactly, means and moments to
    rounding (pairwise update of Chan, Golub & LeVeque 1983, in float64).

    Args:
      a: evidence from some batches.
      b: evidence from other batches.

    Returns:
      Evidence from all of them.

    Raises:
      EvidenceError: if the two are about different networks or hold different parts.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> x = jnp.arange(12.0).reshape(4, 3) - 5
      >>> net = linjax.trace(apply, params, x)
      >>> both = linjax.merge(*(linjax.collect(net, params, [x[i : i + 2]]) for i in (0, 2)))
      >>> both.units[0].active.tolist()
      [2, 2, 2]
    """
    if a.graph != b.graph or a.leaves != b.leaves:
        raise EvidenceError("the evidence is about different networks or differently folded ones")
    if (a.moments is None) != (b.moments is None):
        raise EvidenceError("only one of the two holds second moments")
    if a.metric != b.metric:
        raise EvidenceError(f"one measures errors by the {a.metric} metric, one by {b.metric}")
    units = tuple(map(_merge_units, a.units, b.units))
    rows = [sum(float(own[0].count.sum()) for own in s.points) for s in (a, b)]
    share = rows[1] / max(sum(rows), 1.0)
    variation = (1 - share) * a.variation + share * b.variation
    points = merge_points(a.points, b.points)
    moments = None
    if a.moments is not None and b.moments is not None:
        moments = tuple(map(_merge_moments, a.moments, b.moments))
    return Stats(
        units, moments, a.graph, a.leaves, points, variation, a.network, a.metric, a.sketch
    )


def _merge_units(a: UnitStats, b: UnitStats) -> UnitStats:
    count = a.count + b.count
    share = b.count / (float(count) or 1.0)
    dz, dh = b.mean_z - a.mean_z, b.mean_h - a.mean_h
    between = np.stack([dz * dz, dh * dh, dz * dh]) * (a.count * share)
    return UnitStats(
        count=count,
        active=a.active + b.active,
        mean_z=a.mean_z + share * dz,
        mean_h=a.mean_h + share * dh,
        scatter=a.scatter + b.scatter + between,
    )


def _merge_moments(a: Moments, b: Moments) -> Moments:
    if a.blocks != b.blocks or len(a.count) != len(b.count):
        raise EvidenceError("the second moments were collected in different blocks or folds")
    count, mean, scatter = merge_scatter(
        a.count, a.mean, a.scatter, b.count, b.mean, b.scatter
    )  # fmt: skip
    share = float(b.count.sum() / (float(count.sum()) or 1.0))
    sensitivity = tuple(
        (1 - share) * g + share * h for g, h in zip(a.sensitivity, b.sensitivity, strict=True)
    )
    return Moments(count, mean, scatter, sensitivity, a.blocks)
