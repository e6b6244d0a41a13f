"""Which channels to keep: orthogonal matching pursuit on groups of patch entries."""

from typing import NamedTuple

import numpy as np
import scipy

Array = np.ndarray

SPENT = 1e-4
"""A channel is spent when the others explain all but this share of its variance."""
JITTER = 1e-7
"""Relative to the entries' variances: what keeps factors of singular blocks finite."""


class View(NamedTuple):
    """The channels as one reader sees them.

    Attributes:
      covariance: ``(n · taps, n · taps)`` of the patch, channel by channel.
      cross: ``(n · taps, q)`` its covariance with the reader's target.
      taps: entries of a channel.
    """

    covariance: Array
    cross: Array
    taps: int


class _Reading:
    """A view given the channels picked so far."""

    def __init__(self, view: View, steps: int) -> None:
        n = len(view.covariance) // view.taps
        self.taps, self.covariance = view.taps, view.covariance
        self.rest = np.array(view.cross, np.float64).reshape(n, view.taps, -1)
        blocks = view.covariance.reshape(n, view.taps, n, view.taps)
        self.left = blocks[np.arange(n), :, np.arange(n)].copy()
        diagonal = np.einsum("ikk->ik", self.left)
        self.start = diagonal.sum(1)
        floor = JITTER * diagonal + 1e-9 * max(float(diagonal.mean()), np.finfo(float).tiny)
        np.einsum("ikk->ik", self.left)[...] += floor
        self.factor = np.zeros((n * view.taps, steps * view.taps), order="F")
        self.done = 0

    def alive(self) -> Array:
        """Whether each channel has variance of its own left."""
        return np.einsum("ikk->i", self.left) > SPENT * self.start + np.finfo(float).tiny

    def worth(self) -> Array:
        """How much of the target each channel explains beyond those picked."""
        solved = np.linalg.solve(self.left, self.rest)
        return np.einsum("ikq,ikq->i", self.rest, solved)

    def take(self, i: int) -> None:
        """Picks a channel."""
        taps, done = self.taps, self.done
        own = slice(i * taps, (i + 1) * taps)
        lower = np.linalg.cholesky(self.left[i])
        before = self.factor[:, :done]
        columns = self.covariance[:, own] - before @ before[own].T
        columns[own] = self.left[i]
        block = scipy.linalg.solve_triangular(lower, columns.T, lower=True, check_finite=False).T
        self.factor[:, done : done + taps] = block
        self.done += taps
        explained = scipy.linalg.solve_triangular(
            lower, self.rest[i], lower=True, check_finite=False
        )
        parts = block.reshape(len(self.left), taps, taps)
        self.rest -= parts @ explained
        self.left -= parts @ parts.swapaxes(1, 2)
        np.einsum("ikk->ik", self.left)[...] = np.maximum(
            np.einsum("ikk->ik", self.left), JITTER * self.start[:, None] / taps + 1e-300
        )


def pursue(views: list[View], steps: int | None = None) -> Array:
    """Orders channels by how much of all readers' targets each explains beyond those before it.

    A channel is the group of its entries in a patch. With R the covariance of the group with
    the target and D its own, both given the channels picked before, its worth is
    ``tr Rᵀ D⁻¹ R``, summed over the readers.

    Args:
      views: the channels as each reader sees them.
      steps: the largest number of channels to pick, all by default.

    Returns:
      Indices, the most useful first; channels that are combinations of others, and dead
      ones, are left out.

    Reference: Lozano, Swirszcz and Abe, Group orthogonal matching pursuit, 2009.

    >>> twice = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> pursue([View(twice, np.array([[1.0], [1.0], [2.0]]), 1)]).tolist()
    [2, 0]
    """
    n = len(views[0].covariance) // views[0].taps
    steps = n if steps is None else min(steps, n)
    readings = [_Reading(view, steps) for view in views]
    order: list[int] = []
    free = np.ones(n, bool)
    for _ in range(steps):
        open_ = free & np.any([r.alive() for r in readings], axis=0)
        if not open_.any():
            break
        worth = np.where(open_, np.sum([r.worth() for r in readings], axis=0), -1.0)
        i = int(np.argmax(worth))
        order.append(i)
        free[i] = False
        for reading in readings:
            reading.take(i)
    return np.array(order, int)
