"""Domains in which every sign is assumed: there the network is affine.

Bounding a row on such a cell is a linear program: its solution shows a witness, or its
dual the multipliers β that prove the bound. The solver is trusted with neither: a witness
is evaluated, and the bound that the multipliers give is evaluated, too.
"""

from typing import Any, NamedTuple

import numpy as np

from linjax.evidence.certify.crown import Relaxed, Rows
from linjax.evidence.certify.interval import Interval

Array = Any

# The price of violating the cell's constraints, relative to the row's reach: an empty cell
# gets a bound below zero from the least violation.
PRICE = 1e4


class Solution(NamedTuple):
    """The linear program's answer for one row on one cell.

    Attributes:
      point: ``(p,)`` the maximiser.
      params: per step ``(w,)``, the multipliers β as certificates store them.
    """

    point: Array
    params: tuple[Array, ...]


def solve_cell(
    relaxed: tuple[Relaxed, ...], box: Interval, rows: Rows, splits: tuple[Array, ...]
) -> Solution:
    """Maximises a row on a cell.

    Args:
      relaxed: the steps that the row reads from.
      box: bounds of the inputs.
      rows: the row, ``(1, w)`` and ``(1,)``.
      splits: per step ``(w,)``, the assumed signs; a unit with none must be stable.
    """
    linear, offset = np.eye(len(box.lower)), np.zeros(len(box.lower))
    signs, slopes, limits, heights = [], [], [], []
    for step, split in zip(relaxed, splits, strict=True):
        linear, offset = linear @ step.kernel, offset @ step.kernel + step.bias
        assumed = np.flatnonzero(split)
        signs.append(assumed)
        limits.append(-(split[assumed] * linear[:, assumed]).T)
        heights.append(split[assumed] * offset[assumed])
        slope = step.negative + step.rise * _on(step, split)
        slopes.append(slope)
        linear, offset = linear * slope, offset * slope
    objective = linear @ rows.weights[0]
    reach = np.abs(objective) @ np.maximum(np.abs(box.lower), np.abs(box.upper))
    rows_below, height = np.concatenate(limits), np.concatenate(heights)
    # Unit rows, so that one price suits all of them.
    norm = np.linalg.norm(rows_below, axis=1)
    norm = np.where(norm > 0, norm, 1.0)
    price = PRICE * (reach + abs(float(rows.constant[0])) + 1e-30)
    from scipy.optimize import linprog  # here: it takes longer to import than all of linjax

    found = linprog(
        np.append(-objective, price),
        A_ub=np.concatenate([rows_below / norm[:, None], -np.ones((len(norm), 1))], axis=1),
        b_ub=height / norm,
        bounds=[*zip(box.lower, box.upper, strict=True), (0.0, None)],
    )
    if found.x is None:
        return Solution(np.array(box.lower), tuple(np.zeros(len(s)) for s in splits))
    multiplier = np.maximum(-found.ineqlin.marginals, 0.0) / norm
    betas = np.split(multiplier, np.cumsum([len(s) for s in signs])[:-1])
    params = _relative(relaxed, rows.weights[0], splits, signs, betas)
    return Solution(np.clip(found.x[:-1], box.lower, box.upper), params)


def _on(step: Relaxed, split: Array) -> np.ndarray:
    return (split > 0) | ((split == 0) & (step.lower >= 0))


def _relative(
    relaxed: tuple[Relaxed, ...],
    weights: Array,
    splits: tuple[Array, ...],
    signs: list[Array],
    betas: list[Array],
) -> tuple[np.ndarray, ...]:
    """Multipliers relative to the rows' scales, from the last step to the first."""
    params = []
    for step, split, assumed, beta in zip(
        relaxed[::-1], splits[::-1], signs[::-1], betas[::-1], strict=True
    ):
        rise = weights * step.rise
        scale = np.abs(rise).sum() / max(len(rise), 1)
        scale = scale if scale > 0 else 1.0
        param = np.zeros(len(split))
        param[assumed] = beta / scale
        back = rise * _on(step, split) + split * param * scale + weights * step.negative
        weights = step.kernel @ back
        params.append(param)
    return tuple(params[::-1])
