"""A site behind a convolution as least squares sees it: groups of patch entries, and targets."""

from typing import NamedTuple

import numpy as np

from linjax.evidence.moments import Moments
from linjax.fold.least_squares.features import Features, Frame, frame
from linjax.fold.least_squares.surface import leading, metric_root, principal

Array = np.ndarray

RIDGES = (1e-5, 1e-3, 3e-2)
"""Shrinkage where samples are many, some, and few."""
MANY, SOME = 4, 1
"""Samples per feature from which they are many, and some."""


class Reader(NamedTuple):
    """One map that reads the channels.

    Attributes:
      name: its name.
      rows: ``(taps, channels, q)`` what it does with them: units first, then linear channels.
      moments: of the patches that it reads.
      chained: whether it is the first layer of a dense chain, which is refitted there.
      groups: runs of channels that are read for outputs of their own.
    """

    name: str
    rows: Array
    moments: Moments
    chained: bool = False
    groups: int = 1

    @property
    def taps(self) -> int:
        """Places that are read together."""
        return self.rows.shape[0]


class Problem(NamedTuple):
    """A site to fold.

    Attributes:
      name: the site's name.
      units: number of channels with their activation.
      linears: number of linear channels that are there already.
      readers: who reads them.
      groups: runs of channels of which as many must stay each.
    """

    name: str
    units: int
    linears: int
    readers: tuple[Reader, ...]
    groups: int = 1

    @property
    def channels(self) -> int:
        """All channels, candidates for being kept."""
        return self.units + self.linears

    @property
    def may_be_linear(self) -> bool:
        """Whether moments of the channels without their activation are there."""
        return self.units > 0 and all(r.moments.blocks[2] for r in self.readers)

    @property
    def measured(self) -> bool:
        """Whether there are moments at all, and how the readers' results matter is known."""
        return all(
            sum(m.blocks) and m.sensitivity[0].size for m in (r.moments for r in self.readers)
        )


def entries(problem: Problem, reader: Reader, channels: Array) -> Array:
    """Returns the places in a patch of some channels, ``(channels, taps)``."""
    channels, taps = np.asarray(channels, int)[:, None], np.arange(reader.taps)[None]
    units, linears = problem.units, problem.linears
    own = taps * units + channels
    other = reader.taps * units + taps * linears + channels - units
    return np.where(channels < units, own, other)


def through(problem: Problem, reader: Reader, mix: Array) -> Features:
    """Returns linear channels ``z @ mix`` in a patch, channel by channel."""
    start = reader.taps * problem.channels
    rows = start + np.arange(reader.taps * problem.units)
    matrix = np.einsum("ts,mr->tmrs", np.eye(reader.taps), mix)
    return Features(rows, matrix.reshape(len(rows), -1))


def kept_features(problem: Problem, reader: Reader, channels: Array) -> Features:
    """Returns some channels' entries, channel by channel."""
    return Features(entries(problem, reader, channels).reshape(-1))


def result(problem: Problem, reader: Reader) -> Features:
    """Returns what the reader computes of the channels, ``(q,)``, as a map of the patch."""
    everything = entries(problem, reader, np.arange(problem.channels))
    return Features(everything.T.reshape(-1), reader.rows.reshape(-1, reader.rows.shape[2]))


def target(problem: Problem, reader: Reader, data: Frame) -> Features:
    """Returns the reader's result in the output metric, in the few directions that matter."""
    weighted = result(problem, reader) @ metric_root(_metric(reader))
    return weighted @ leading(*principal(data, weighted))


def _metric(reader: Reader) -> Array:
    """The sensitivity; linear channels of the reader itself count as its mean entry."""
    own = reader.moments.sensitivity[0]
    q = reader.rows.shape[2]
    if len(own) == q:
        return own
    wide = np.eye(q) * (np.trace(own) / max(len(own), 1))
    wide[: len(own), : len(own)] = own
    return wide


def ridge_for(samples: float, features: int) -> float:
    """The smallest shrinkage where samples are many, a larger one where they are few."""
    ratio = samples / max(features, 1)
    if ratio >= MANY:
        return RIDGES[0]
    return RIDGES[1] if ratio >= SOME else RIDGES[2]


def whole(reader: Reader, ridge: float | None = None) -> Frame:
    """Returns the moments of all samples, shrunk as their number asks for, or as given."""
    if ridge is None:
        ridge = ridge_for(float(np.sum(reader.moments.count)), sum(reader.moments.blocks[:2]))
    return frame(reader.moments, None, ridge)


def frames(reader: Reader) -> tuple[Frame, Frame]:
    """Returns moments to fit on and others to measure on, the same if there is one fold only."""
    ridge = ridge_for(float(np.sum(reader.moments.count)), sum(reader.moments.blocks[:2]))
    folds = [f for f, n in enumerate(reader.moments.count) if n > 0]
    if len(folds) < 2:
        both = frame(reader.moments, None, ridge)
        return both, both
    return frame(reader.moments, folds[:-1], ridge), frame(reader.moments, folds[-1:])
