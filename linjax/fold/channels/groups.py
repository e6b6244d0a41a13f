"""Channels in groups: as many stay in each, and each group's reader is refitted by itself.

A convolution with groups is so many convolutions side by side, in one kernel: all read as many
channels as each other. Widths go down by one channel a group at a time.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from linjax.fold.channels.problem import Reader

Array = np.ndarray


class Group(NamedTuple):
    """One group of a reader.

    Attributes:
      reader: what it does, its outputs alone; to channels of other groups, nothing.
      channels: those that it reads.
      outputs: its outputs among all of the reader's.
    """

    reader: Reader
    channels: Array
    outputs: Array


def groups_of(reader: Reader) -> Iterator[Group]:
    """Yields the groups of a reader, itself if it has none."""
    _, n, q = reader.rows.shape
    channels, outputs = (np.arange(m).reshape(reader.groups, -1) for m in (n, q))
    for own, made in zip(channels, outputs, strict=True):
        sensitivity = tuple(s[np.ix_(made, made)] if len(s) == q else s
                            for s in reader.moments.sensitivity)  # fmt: skip
        moments = dataclasses.replace(reader.moments, sensitivity=sensitivity)
        yield Group(reader._replace(rows=reader.rows[:, :, made], moments=moments), own, made)


def balanced(order: Array, groups: int, n: int) -> Array:
    """Orders n channels so that the first of all groups come first, then the second, and so on.

    >>> balanced(np.array([1, 0, 5]), 2, 6).tolist()
    [1, 5, 0, 3, 2, 4]
    """
    everything = np.concatenate([order, np.setdiff1d(np.arange(n), order)]).astype(int)
    of = everything // (n // groups)
    return everything[np.argsort(of, kind="stable")].reshape(groups, -1).T.reshape(-1)


def evened(mask: Array, groups: int) -> Array:
    """Returns a mask that keeps as many channels in each group as the group that keeps most."""
    runs = mask.reshape(groups, -1)
    first = np.argsort(~runs, axis=1, kind="stable")[:, : runs.sum(1).max(initial=0)]
    even = np.zeros_like(runs)
    np.put_along_axis(even, first, True, axis=1)
    return even.reshape(-1)
