"""Second moments on the host, in float64: what passes bring is merged, in memory or in files."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.errors import EvidenceError
from linjax.evidence import moments
from linjax.evidence.places import Piece, places
from linjax.evidence.stored import steps, zeros

Array = Any


class Held(NamedTuple):
    """What is known at a place so far: see :class:`~linjax.evidence.moments.PointMoments`.

    Attributes:
      count: ``(F, n)``.
      mean: ``(F, n, w)``.
      scatter: ``(F, n, w, w)``, an array or a file.
    """

    count: Array
    mean: Array
    scatter: Any


class Weighed(NamedTuple):
    """What errors at a place cost, ``(n, q, q)``, and how many samples that is known of."""

    metric: Any
    samples: float


class Host:
    """Evidence of all places that has reached the host.

    Args:
      network: the traced network.
      folds: of the rows.
      repeats: by place, how many there are; None where every piece has all of them.
      folder: for what is large, None for the memory.
    """

    def __init__(
        self, network: Network, folds: int, repeats: Sequence[int] | None, folder: Path | None
    ) -> None:
        self.network, self.folds, self.repeats, self.folder = network, folds, repeats, folder
        self.held: dict[int, Held] = {}
        self.weighed: dict[int, Weighed] = {}

    def add(self, fold: int, piece: Piece, own: moments.Sums, index: int) -> None:
        """Merges sums of some rows, their lower blocks alone, with what is known of a fold.

        Raises:
          EvidenceError: if they aren't finite, naming the place.
        """
        n, width = self._repeats(piece, len(own.mean)), own.mean.shape[-1]
        if piece.place not in self.held:
            shape = (self.folds, n, width)
            scatter = zeros(self.folder, f"moments-{piece.place}", (*shape, width))
            self.held[piece.place] = Held(np.zeros(shape[:2]), np.zeros(shape), scatter)
        held = self.held[piece.place]
        for step in steps(own.mean.shape[0], 8 * width**2):
            now = moments.Sums(
                np.float64(own.count),  # all repeats have seen as many
                own.mean[step].astype(np.float64),
                moments.mirrored(own.scatter[step].astype(np.float64)),
            )
            if not all(np.isfinite(x).all() for x in now):
                raise not_finite(places(self.network)[piece.place].name, index)
            at = fold, slice(piece.start + step.start, piece.start + step.stop)
            before = moments.Sums(held.count[at][0], held.mean[at], held.scatter[at])
            found = moments.merge_sums(before, now) if before.count else now
            held.count[at], held.mean[at] = found.count, found.mean
            held.scatter[at] = found.scatter

    def _repeats(self, piece: Piece, size: int) -> int:
        return size if self.repeats is None else self.repeats[piece.place]

    def weigh(self, piece: Piece, gram: Array, samples: float) -> None:
        """Keeps sums of outer products of derivatives, their lower blocks alone, for a sample."""
        n, width = self._repeats(piece, len(gram)), gram.shape[-1]
        if piece.place not in self.weighed:
            metric = zeros(self.folder, f"metric-{piece.place}", (n, width, width))
            self.weighed[piece.place] = Weighed(metric, samples)
        metric = self.weighed[piece.place].metric
        for step in steps(len(gram), 8 * width**2):
            whole = moments.mirrored(gram[step].astype(np.float64)) / max(samples, 1e-30)
            metric[piece.start + step.start : piece.start + step.stop] = whole

    def raise_by(self, place: int, cost: float) -> None:
        """Says that every error at a place costs its square, too, so many times."""
        metric, _ = self.weighed[place]
        for own in metric:
            own += cost * np.eye(metric.shape[-1])

    def add_up(self, place: int, times: float) -> None:
        """Says that errors of an example's places cost so many times what they do apart."""
        metric, samples = self.weighed[place]
        self.weighed[place] = Weighed(metric, times * samples)

    def points(self, examples: float, used: list[int]) -> tuple[Any, Any]:
        """Second moments by site and point, and by kernel.

        Args:
          examples: number of those that metrics are known of.
          used: the folds that have rows.
        """
        found: list[moments.PointMoments] = []
        first: dict[int, int] = {}
        for n, place in enumerate(places(self.network)):
            metric, samples = self.weighed[n]
            if place.sampled:
                count, mean, scatter = self.held[n]
                if len(used) < self.folds:
                    count, mean, scatter = count[used], mean[used], scatter[...][used]
                own = moments.Sums(count[:, :1].sum(axis=1), mean, scatter)
            else:
                assert place.read is not None and place.read.point is not None
                site, point = place.read.point
                shared = found[first[site] + point]
                own = _corner(shared, shared.metric.shape[-1])
            found.append(moments.PointMoments(*own, metric, np.asarray(samples / examples)))
            if place.site is not None:
                first.setdefault(place.site, n)
        sites = [len(site.points) for site in self.network.foldable]
        bounds = np.cumsum([0, *sites]).tolist()
        points = tuple(tuple(found[a:b]) for a, b in itertools.pairwise(bounds))
        return points, tuple(found[bounds[-1] :])


def _corner(point: moments.PointMoments, width: int) -> moments.Sums:
    """Moments of the first coordinates: of units without the linear ones behind them."""
    scatter: Any = point.scatter
    corner = (
        scatter[..., :width, :width] if isinstance(scatter, np.ndarray) else scatter.corner(width)
    )
    return moments.Sums(point.count, point.mean[..., :width], corner)


def not_finite(name: str, index: int) -> EvidenceError:
    """The error for values that aren't finite."""
    return EvidenceError(
        f"{name}: activations are not finite (NaN or infinite), by batch {index}; check "
        "the inputs and the parameters"
    )
