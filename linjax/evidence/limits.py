"""How many places of evidence a pass gathers second moments of, so that these fit the memory."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from linjax.errors import EvidenceError
from linjax.evidence.places import Piece

SHARE = 0.5
"""Share of the memory that a device has free that moments may take; activations need some, too."""


class Limits(NamedTuple):
    """What a pass over a calibration set may take; evidence that takes more takes several passes.

    Attributes:
      bytes: of each device's memory for second moments and sensitivities. By default half of what
        the devices say that they have free; those that don't say (a CPU) are taken to have enough.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> data = [jax.random.normal(jax.random.key(0), (64, 3))]
      >>> net = linjax.trace(apply, params, data[0])
      >>> stats = linjax.collect(net, params, data, limits=linjax.Limits(bytes=2000))
      >>> int(stats.units["in"].count)
      64
    """

    bytes: int | None = None

    def room(self) -> int | None:
        """Bytes of a device, None where nothing limits them."""
        if self.bytes is not None:
            return self.bytes
        told = [device.memory_stats() or {} for device in jax.local_devices()]
        if not all("bytes_limit" in own for own in told):
            return None
        return int(SHARE * min(own["bytes_limit"] - own["bytes_in_use"] for own in told))


class Extent(NamedTuple):
    """How large the evidence at a place is: n repeats, ``(w, w)`` moments, a ``(q, q)`` metric.

    Attributes:
      name: what messages call the place.
      repeats: n.
      width: w, 0 where the moments are another place's.
      result: q.
      blocks: over how many devices the rows of ``(w, w)`` moments are spread.
    """

    name: str
    repeats: int
    width: int
    result: int
    blocks: Callable[[int], int] = lambda width: 1


class Group(NamedTuple):
    """What a pass gathers: moments at some places, sensitivities at some."""

    moments: tuple[Piece, ...] = ()
    metrics: tuple[Piece, ...] = ()


def taken(moments: int, metrics: int, folds: int) -> int:
    """Bytes that a pass takes of a device: ``4 (F S + G + 2 max(S, G))``.

    F folds of moments and one of metrics are kept; while a batch is added there is another one of
    either, and what it is put together from.

    Args:
      moments: S, entries of all moments, ``Σ n w² / M`` with rows over M devices.
      metrics: G, entries of all metrics, ``Σ n q² / M``.
      folds: F.
    """
    return 4 * (folds * moments + metrics + 2 * max(moments, metrics))


def groups(extents: Sequence[Extent], folds: int, room: int) -> list[Group]:
    """Deals places to passes in their order, repeats apart where not all of them fit.

    Sensitivities come first, so that few passes have to differentiate.

    Raises:
      EvidenceError: if one repeat alone takes more.
    """
    found, now, held = list[Group](), Group(), [0, 0]
    each = [
        [e.width**2 // e.blocks(e.width) for e in extents],
        [e.result**2 // e.blocks(e.result) for e in extents],
    ]
    for kind in (1, 0):
        for n, own in enumerate(extents):
            entries, start = each[kind][n], 0
            while entries and start < own.repeats:
                size = _fitting(held, kind, entries, own.repeats - start, folds, room)
                if size:
                    both = list(now)
                    both[kind] = (*both[kind], Piece(n, start, size))
                    now, start = Group(*both), start + size
                    held[kind] += size * entries
                elif any(now):
                    found, now, held = [*found, now], Group(), [0, 0]
                else:
                    least = taken((1 - kind) * entries, kind * entries, folds)
                    raise EvidenceError(
                        f"{own.name}: its evidence takes {least:,} bytes for one of its "
                        f"{own.repeats} repeats, more than the {room:,} of limits; give more, or "
                        'spread it over a mesh with an axis "model"'
                    )
    return [*found, now]


def _fitting(
    held: Sequence[int], kind: int, entries: int, most: int, folds: int, room: int
) -> int:  # fmt: skip
    """The most repeats that fit beside what a pass has already."""
    low, high = 0, most
    while low < high:
        middle, now = (low + high + 1) // 2, list(held)
        now[kind] += middle * entries
        low, high = (middle, high) if taken(now[0], now[1], folds) <= room else (low, middle - 1)
    return low
