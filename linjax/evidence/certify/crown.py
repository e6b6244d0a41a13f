"""Linear bounds by back-substitution, with optimised slopes and split constraints.

For a row ``f = A h + c`` of features of the step before, each unit's activation is
replaced by a line above ``A_t σ(z_t)`` and the row is carried back through the affine
map, down to the input box, where its maximum is read off: CROWN (Zhang et al. 2018,
arXiv 1811.00866). Write ``A σ(z) = N z + D max(z, 0)`` with ``N = A·negative`` and
``D = A·(positive − negative)``; then over l ≤ z ≤ u

    D max(z, 0) ≤ a z + max(0, −a l, (D − a) u)    for every a between 0 and D,

so that *any* ``a = α D``, 0 ≤ α ≤ 1, gives a sound bound, and rounding it does no harm.
For D > 0 the chord α = u / (u − l) is best; for D < 0 the α are optimised (α-CROWN, Xu et
al. 2020, arXiv 2011.13824). Where a branch assumes z ≥ 0 or z ≤ 0, a multiple β ≥ 0 of the
assumption may be added on top (β-CROWN, Wang et al. 2021, arXiv 2103.06624).

Everything that is rounded on the way is paid for: the bound comes with an error that is
added to it (see :func:`upper_bound`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.evidence.certify.interval import UNDERFLOW, Interval, gamma
from linjax.evidence.certify.steps import Step

Array = Any


class Relaxed(NamedTuple):
    """A step with what is known of its units: all that back-substitution needs.

    Attributes:
      kernel, bias: the affine map, ``(p, w)`` and ``(w,)``.
      negative, rise: slope below zero, and what the slope gains at zero, ``(w,)``.
      lower, upper: proven bounds of the pre-activations, ``(w,)``.
      size: ``(w,)`` a bound of ``|v| |W| + |b|``, hence of every ``|z|``: what rounding
        errors are relative to.
    """

    kernel: Array
    bias: Array
    negative: Array
    rise: Array
    lower: Array
    upper: Array
    size: Array


class Rows(NamedTuple):
    """Functions to bound from above: ``A h + c`` of the last relaxed step's features.

    Attributes:
      weights: ``(n, w)``.
      constant: ``(n,)``.
    """

    weights: Array
    constant: Array


class Line(NamedTuple):
    """Per row and unit of a step: ``slope · z + intercept`` above ``rise · max(z, 0)``."""

    rise: Array
    slope: Array
    intercept: Array


class Bound(NamedTuple):
    """What back-substitution found for each row.

    Attributes:
      value: ``(n,)`` a rigorous upper bound.
      point: ``(n, p)`` the corner of the box where the linear bound is attained.
      lines: per step the lines that were used.
    """

    value: Array
    point: Array
    lines: tuple[Line, ...]


def relax(step: Step, features: Interval, z: Interval) -> Relaxed:
    """Describes a step by the bounds of what it reads and of what it computes."""
    size = features.magnitude @ np.abs(step.kernel) + np.abs(step.bias)
    return Relaxed(
        step.kernel,
        step.bias,
        step.negative,
        step.positive - step.negative,
        z.lower,
        z.upper,
        size * (1 + gamma(step.kernel.shape[0] + 4)) + UNDERFLOW,
    )


def line_above(step: Relaxed, rise: Array, params: Array, splits: Array) -> Line:
    """The line above ``rise · max(z, 0)`` that the parameters choose.

    Args:
      step: the step whose pre-activations are z.
      rise: ``(n, w)``, the D of the module's docstring.
      params: ``(n, w)``: α in [0, 1] of a unit without split, β ≥ 0 of a split one,
        relative to the row's mean ``|D|``, or to 1 where that is 0.
      splits: ``(n, w)`` 1 where the row assumes z ≥ 0, -1 where z ≤ 0, else 0.
    """
    active = (step.lower >= 0) | (splits > 0)
    crossing = ~active & (step.upper > 0) & (splits == 0)
    width = jnp.where(crossing, step.upper - step.lower, 1.0)
    alpha = jnp.where(rise > 0, jnp.clip(step.upper / width, 0.0, 1.0), params)
    slope = rise * jnp.where(crossing, alpha, active)
    ends = jnp.maximum(-slope * step.lower, (rise - slope) * step.upper)
    intercept = jnp.maximum(ends, 0.0)
    mean = jnp.sum(jnp.abs(rise), axis=1, keepdims=True) / max(rise.shape[1], 1)
    scale = jax.lax.stop_gradient(jnp.where(mean > 0, mean, 1.0))
    return Line(rise, slope + splits * params * scale, jnp.where(crossing, intercept, 0.0))


def upper_bound(
    relaxed: tuple[Relaxed, ...],
    box: Interval,
    rows: Rows,
    params: tuple[Array, ...],
    splits: tuple[Array, ...],
) -> Bound:
    """Bounds every row from above over the box, given each row's splits.

    The rounding error: at every step the row's coefficients are off by at most
    γ |M| |W| after the product with the kernel, and by a few units of roundoff of
    |A|·(|negative| + |rise|) before it. They act on features and pre-activations whose
    magnitudes, ``size`` = |v| |W| + |b|, are known, so that the error is γ |M|·size in
    all; intercepts, constants and the last maximum add γ times their own magnitudes.

    Args:
      relaxed: the steps that the rows read from, from the input on.
      box: bounds of the network's inputs.
      rows: the functions.
      params: per step, see :func:`line_above`.
      splits: per step, see :func:`line_above`.
    """
    weights, constant = rows
    reads = jnp.maximum(jnp.abs(box.lower), jnp.abs(box.upper))
    error, reach = jnp.abs(constant), jnp.sum(reads)
    terms = box.lower.shape[0] + 16
    lines = []
    for step, param, split in zip(relaxed[::-1], params[::-1], splits[::-1], strict=True):
        line = line_above(step, weights * step.rise, param, split)
        back = line.slope + weights * step.negative
        steepness = jnp.abs(step.negative) + jnp.abs(step.rise)
        error += (jnp.abs(back) + jnp.abs(weights) * steepness) @ step.size
        error += jnp.sum(line.intercept, axis=1)
        reach += jnp.sum((1 + steepness) * step.size)
        constant = constant + jnp.sum(line.intercept, axis=1) + back @ step.bias
        weights = back @ step.kernel.T
        terms += 2 * step.bias.shape[0] + 16
        lines.append(line)
    up = weights > 0
    value = jnp.sum(jnp.where(up, weights * box.upper, weights * box.lower), axis=1)
    error += jnp.abs(weights) @ reads
    rounding = 4 * gamma(terms) * error + terms * UNDERFLOW * (1 + reach)
    return Bound(
        value + constant + jax.lax.stop_gradient(rounding),
        jnp.where(up, box.upper, box.lower),
        tuple(lines[::-1]),
    )


def default_params(relaxed: tuple[Relaxed, ...], count: int) -> tuple[np.ndarray, ...]:
    """CROWN's own choice for ``count`` rows: the line that encloses the smaller area."""
    return tuple(
        np.broadcast_to((step.upper >= -step.lower).astype(np.float32), (count, len(step.upper)))
        for step in relaxed
    )
