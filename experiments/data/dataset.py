"""What a data set is here: rows of float features and integer classes, in three parts."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split


class MissingData(Exception):
    """A data set is not where it was looked for; the message says how to get it."""


class Split(NamedTuple):
    """Rows: features ``x`` (n, p) as float32, classes ``y`` (n,) as int32."""

    x: np.ndarray
    y: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Split":
        """Returns the given rows."""
        return Split(self.x[rows], self.y[rows])


class Dataset(NamedTuple):
    """A classification task.

    Attributes:
      title: its name as people write it, for tables and pictures.
      train: rows to train on; calibration rows are the first of them.
      valid: rows that decide when training stops.
      test: rows that every reported figure is measured on.
      classes: number of classes.
    """

    title: str
    train: Split
    valid: Split
    test: Split
    classes: int


def batches(x: Any, size: int) -> Iterator[Any]:
    """Yields ``x`` in order, ``size`` rows at a time, the last batch possibly short.

    >>> [len(batch) for batch in batches(np.zeros((5, 2)), 2)]
    [2, 2, 1]
    """
    for start in range(0, len(x), size):
        yield x[start : start + size]


def split_rows(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns row numbers of 60% training, 20% validation and 20% test rows, by class."""
    train, rest = train_test_split(np.arange(len(y)), test_size=0.4, stratify=y, random_state=seed)
    valid, test = train_test_split(rest, test_size=0.5, stratify=y[rest], random_state=seed)
    return train, valid, test
