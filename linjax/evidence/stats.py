"""Evidence from data: what each unit did on a calibration set."""

import dataclasses
from typing import Any

import jax
import numpy as np

from linjax.errors import EvidenceError
from linjax.evidence.moments import Moments, merge_scatter
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
class ChannelStats:
    """Statistics of the channels of one site behind a convolution.

    Attributes:
      units: of the channels, every place of every example being a sample.
      readings: second moments of the patches that each reader reads, none where they
        weren't asked for or would be too large: entries tap by tap of the channels with
        their activation, the linear channels, and the pre-activations as they would arrive
        without the activation (blocks of no entries where they don't). Their sensitivity
        is that of the reader's result, summed over its places.
    """

    units: UnitStats
    readings: tuple[Moments, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stats:
    """Evidence from a calibration set, made by :func:`collect`; a pytree of NumPy arrays.

    Attributes:
      units: statistics by site, in the order of ``graph.sites``.
      moments: second moments by chain, None where they weren't asked for.
      graph: the network that the evidence is about.
      leaves: the parameter pytree that it was collected on.
      channels: statistics by site behind a convolution, in the order of ``graph.channels``.
      variation: mean square of the outputs about their mean, in the output metric, for an
        example; measured where there are convolutions, else zero.
      heads: second moments of what attention's output kernels read, in the order of
        ``graph.heads``; none where second moments weren't asked for.
    """

    units: tuple[UnitStats, ...]
    moments: tuple[Moments, ...] | None
    graph: Graph = dataclasses.field(metadata={"static": True})
    leaves: tuple[Leaf, ...] = dataclasses.field(metadata={"static": True})
    channels: tuple[ChannelStats, ...] = ()
    variation: Array = 0.0
    heads: tuple[Moments, ...] = ()

    @property
    def rates(self) -> dict[str, Array]:
        """Activation rates by site."""
        channels = zip(self.graph.channels, self.channels, strict=True)
        dense = zip(self.graph.sites, self.units, strict=True)
        return {site.name: c.units.rate for site, c in channels} | {
            site.name: u.rate for site, u in dense
        }

    def __repr__(self) -> str:
        names = [s.name for s in self.graph.channels] + [s.name for s in self.graph.sites]
        units = [*(c.units for c in self.channels), *self.units]
        samples = ", ".join(
            f"{name}: {int(u.count):,}" for name, u in zip(names, units, strict=True)
        )
        kind = "without" if self.moments is None else "with"
        return f"Stats({kind} second moments; samples by site: {samples})"


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
    units = tuple(map(_merge_units, a.units, b.units))
    channels = tuple(map(_merge_channels, a.channels, b.channels))
    if a.moments is None or b.moments is None:
        return Stats(units, None, a.graph, a.leaves, channels)
    moments = tuple(map(_merge_moments, a.moments, b.moments))
    rows = [sum(float(c.units.count) for c in s.channels) for s in (a, b)]
    share = rows[1] / max(sum(rows), 1.0)
    variation = (1 - share) * a.variation + share * b.variation
    heads = tuple(map(_merge_moments, a.heads, b.heads))
    return Stats(units, moments, a.graph, a.leaves, channels, variation, heads)


def _merge_channels(a: ChannelStats, b: ChannelStats) -> ChannelStats:
    if len(a.readings) != len(b.readings):
        raise EvidenceError("only one of the two holds second moments of patches")
    return ChannelStats(
        _merge_units(a.units, b.units), tuple(map(_merge_moments, a.readings, b.readings))
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
