"""Which units a site keeps and which directions stay linear beside them."""

from typing import NamedTuple

import numpy as np

from linjax.fold.engine.linalg import floored, solve
from linjax.fold.engine.pursuit import View, pursue
from linjax.fold.least_squares.budget import CARRY
from linjax.fold.least_squares.directions import linear_directions
from linjax.fold.least_squares.features import Features, Frame

Array = np.ndarray


class Split(NamedTuple):
    """How the features of a site divide into units and linear units.

    Attributes:
      kept: ``(k,)`` indices of the units that keep their activation.
      linear: ``(p, r)`` kernel of the linear units, None where the features travel on.
      reads_units: ``(k, q)`` the target's coefficients on the kept units.
      reads_inputs: ``(p, q)`` its coefficients on the features, through the linear units.
      error: the part of the target's variance that is left.
    """

    kept: Array
    linear: Array | None
    reads_units: Array
    reads_inputs: Array
    error: float


def _given(data: Frame, kept: Features, v: Features, target: Features) -> tuple[Array, Array]:
    """Covariances of v and of v with the target, given the kept units."""
    c_vv, r_v = data.within(v), data.between(v, target)
    if not kept.width:
        return c_vv, r_v
    c_kv = data.between(kept, v)
    through = solve(data.within(kept), np.concatenate([c_kv, data.between(kept, target)], 1))
    left = c_vv - c_kv.T @ through[:, : v.width]
    return floored(left, c_vv), r_v - c_kv.T @ through[:, v.width :]


def _pursue_beside(data: Frame, u: Features, h: Features, target: Features, k: int) -> Array:
    """The k units that explain most of the target beside features u."""
    c_hh, r_h = data.within(h), data.between(h, target)
    whole = np.diag(c_hh)
    if u.width and k:
        c_hu = data.between(h, u)
        through = solve(data.within(u), np.concatenate([c_hu.T, data.between(u, target)], 1))
        c_hh, r_h = c_hh - c_hu @ through[:, : h.width], r_h - c_hu @ through[:, h.width :]
    return pursue(View((c_hh + c_hh.T) / 2, r_h, whole), k).order


def _finish(
    data: Frame, v: Features, h: Features, target: Features, kept: Array, linear: Array | None
) -> Split:
    """The coefficients and the error of a choice of units and directions."""
    u = v if linear is None else v @ linear
    units = h.take(kept)
    c_ku = data.between(units, u)
    covariance = np.block([[data.within(units), c_ku], [c_ku.T, data.within(u)]])
    cross = np.concatenate([data.between(units, target), data.between(u, target)])
    coefficients = solve(covariance, cross)
    left = np.trace(data.within(target)) - np.sum(coefficients * cross)
    through = coefficients[len(kept) :]
    return Split(
        kept,
        linear,
        coefficients[: len(kept)],
        through if linear is None else linear @ through,
        left,
    )


def split(data: Frame, v: Features, h: Features, target: Features, k: int, r: int) -> Split:
    """Chooses k units and r linear units that together explain most of a target.

    The two choices depend on each other: units are pursued beside no, some and all directions
    of v, directions are found given the units, and the best of the three is taken.

    Args:
      data: moments.
      v: features from which linear units are drawn.
      h: the units' activations.
      target: what to explain.
      k: number of units.
      r: number of linear units, or CARRY.
    """
    if r == CARRY:
        kept = _pursue_beside(data, v, h, target, k)
        return _finish(data, v, h, target, np.sort(kept), None)
    none = Features(np.zeros(0, int))
    beside = [none]
    if r:
        beside += [v, v @ linear_directions(data.within(v), data.between(v, target), r).kernel]
    choices = []
    for u in beside:
        kept = np.sort(_pursue_beside(data, u, h, target, k))
        linear = np.zeros((v.width, 0))
        if r:
            linear = linear_directions(*_given(data, h.take(kept), v, target), r).kernel
        choices.append(_finish(data, v, h, target, kept, linear))
    return min(choices, key=lambda choice: choice.error)
