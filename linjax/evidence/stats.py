"""Evidence from data: what each unit did on a calibration set."""

import dataclasses
from typing import Any

import jax
import numpy as np

from linjax.chains.structure import Graph
from linjax.dims.network import Network
from linjax.dims.sites import Site
from linjax.errors import EvidenceError, warn
from linjax.evidence.moments import PointMoments, Units, merge_points, merge_units
from linjax.evidence.moved import differ
from linjax.evidence.scale import OutputStats, merged, variation
from linjax.program.pytree import Leaf

Array = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnitStats:
    """Statistics of one site's units over the samples seen, in float64.

    A sample is whatever reads them: a row, a position of a sequence, a place of an image. Where a
    site has n repeats all arrays have these in front of the units. Where nothing is known of
    pre-activations (units that are products of several), those are the activations.

    Attributes:
      count: number of samples, int64; with weights their sum, floating unless they are whole.
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
      seen: statistics of single units, by site of ``sites``.
      points: second moments by site and point, empty where they weren't asked for.
      kernels: those of what kernels read that could be factored, in the order of
        :func:`linjax.evidence.points.reads`.
      outputs: what the outputs do, by leaf; empty where there are no second moments.
      sketch: of the parameters, to tell how far they have moved since.
      network: the dimensions that the evidence is about.
      graph: its chains of dense layers.
      leaves: the parameter pytree that it was collected on.
      metric: the output metric that errors are measured in.
    """

    seen: tuple[UnitStats, ...]
    points: tuple[tuple[PointMoments, ...], ...]
    kernels: tuple[PointMoments, ...]
    outputs: tuple[OutputStats, ...]
    sketch: Array
    network: Network = dataclasses.field(metadata={"static": True})
    graph: Graph = dataclasses.field(metadata={"static": True})
    leaves: tuple[Leaf, ...] = dataclasses.field(metadata={"static": True})
    metric: str = dataclasses.field(metadata={"static": True})

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that the evidence is about."""
        return self.network.foldable

    @property
    def units(self) -> dict[str, UnitStats]:
        """Statistics of units by site."""
        return {site.name: own for site, own in zip(self.sites, self.seen, strict=True)}

    @property
    def rates(self) -> dict[str, Array]:
        """Activation rates by site."""
        return {name: own.rate for name, own in self.units.items()}

    @property
    def variation(self) -> float:
        """Mean square of the outputs about their mean, in the output metric, for an example."""
        return variation(self.outputs)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {int(own.count):,}" for name, own in self.units.items())
        kind = "with" if self.points else "without"
        return f"Stats({kind} second moments; metric {self.metric}; samples by site: {counts})"


def unit_stats(own: Units) -> UnitStats:
    """Statistics of a site's units; without a front axis where it isn't repeated."""
    one = len(own.mean) == 1
    active, mean, scatter = (x[0] if one else x for x in own[1:])
    return UnitStats(
        own.count, active, mean[..., 0, :], mean[..., 1, :], np.moveaxis(scatter, -2, 0)
    )


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
      >>> both.units["in"].active.tolist()
      [2, 2, 2]
    """
    for own in (a, b):
        if not isinstance(own, Stats):
            raise EvidenceError(f"expected Stats, got {type(own).__name__}")
    if a.graph != b.graph or a.leaves != b.leaves or a.sites != b.sites:
        raise EvidenceError("the evidence is about different networks or differently folded ones")
    if len(a.points) != len(b.points):
        raise EvidenceError("only one of the two holds second moments")
    if a.metric != b.metric:
        raise EvidenceError(f"one measures errors by the {a.metric} metric, one by {b.metric}")
    if differ(np.asarray(a.sketch), np.asarray(b.sketch)):
        warn(
            "the evidence is of parameters that have moved in between: what is merged is of "
            "neither; collect on all rows with the parameters that are to be folded"
        )
    return dataclasses.replace(
        a,
        seen=tuple(map(_merge_units, a.seen, b.seen)),
        points=tuple(
            tuple(map(merge_points, own, other))
            for own, other in zip(a.points, b.points, strict=True)
        ),
        kernels=tuple(map(merge_points, a.kernels, b.kernels)),
        outputs=merged(a.outputs, b.outputs),
    )


def _merge_units(a: UnitStats, b: UnitStats) -> UnitStats:
    merged = merge_units(*(_packed(own) for own in (a, b)))
    return UnitStats(
        merged.count, merged.active, merged.mean[..., 0, :], merged.mean[..., 1, :],
        np.moveaxis(merged.scatter, -2, 0),
    )  # fmt: skip


def _packed(own: UnitStats) -> Units:
    mean = np.stack([own.mean_z, own.mean_h], axis=-2)
    return Units(own.count, own.active, mean, np.moveaxis(own.scatter, 0, -2))
