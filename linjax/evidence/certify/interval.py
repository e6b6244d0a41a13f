"""Interval bounds in float64, rounded outward, and exact where zero is close.

The rounding error of an inner product of n floats, in any order of summation and with
or without fused operations, is at most γ_n = n u / (1 − n u) times the inner product of
the magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2002, §3.1).
"""

from typing import Any, NamedTuple

import numpy as np

from linjax.evidence.certify import dyadic
from linjax.evidence.certify.steps import Step

Array = Any

UNIT_ROUNDOFF = 2.0**-53
# Products that underflow, or are flushed to zero, lose at most the least normal number.
UNDERFLOW = 2.0**-1022


def gamma(terms: int) -> float:
    """Twice γ_n: the factor pays for the rounding of the error bound itself."""
    return 2 * terms * UNIT_ROUNDOFF / (1 - terms * UNIT_ROUNDOFF)


class Interval(NamedTuple):
    """Elementwise bounds ``lower ≤ · ≤ upper``, float64."""

    lower: Array
    upper: Array

    @property
    def magnitude(self) -> np.ndarray:
        """The greatest absolute value."""
        return np.maximum(np.abs(self.lower), np.abs(self.upper))


def preactivation(step: Step, features: Interval) -> Interval:
    """Bounds of ``z = v W + b`` for v in the box ``features``.

    A bound whose error interval contains zero is settled in exact arithmetic, so that
    units that just touch zero get their sign right.
    """
    lower = _lower(step.kernel, step.bias, features)
    upper = -_lower(-step.kernel, -step.bias, features)
    return Interval(lower, upper)


def _lower(kernel: np.ndarray, bias: np.ndarray, features: Interval) -> np.ndarray:
    up, down = np.maximum(kernel, 0.0), np.minimum(kernel, 0.0)
    value = features.lower @ up + features.upper @ down + bias
    size = np.abs(features.lower) @ up - np.abs(features.upper) @ down + np.abs(bias)
    terms = 2 * kernel.shape[0] + 16
    error = gamma(terms) * size + terms * UNDERFLOW
    bound = np.nextafter(value - error, -np.inf)
    close = np.flatnonzero((bound < 0) & (value + error >= 0))
    if close.size:
        sign = dyadic.lower_signs(kernel[:, close], bias[close], features.lower, features.upper)
        bound[close] = np.where(sign >= 0, 0.0, bound[close])
    return bound


def activation(step: Step, z: Interval) -> Interval:
    """Bounds of ``h = σ(z)``, rounded outward unless the product by a slope is exact."""
    ends = np.stack([z.lower, z.upper])
    slope = np.where(ends < 0, step.negative, step.positive)
    values = slope * ends
    exact = (slope == 0) | (slope == 1) | (ends == 0)
    lower = np.where(exact, values, np.nextafter(values, -np.inf)).min(axis=0)
    upper = np.where(exact, values, np.nextafter(values, np.inf)).max(axis=0)
    # Slopes of opposite signs have their extreme at zero, inside the interval.
    kink = (z.lower < 0) & (z.upper > 0)
    return Interval(
        np.where(kink, np.minimum(lower, 0.0), lower), np.where(kink, np.maximum(upper, 0.0), upper)
    )


def evaluate(steps: tuple[Step, ...], points: Array) -> Interval:
    """Encloses the last step's pre-activations at each of the points.

    Args:
      steps: the steps from the input on.
      points: ``(n, p)`` inputs, taken as exact.

    Returns:
      bounds of shape ``(n, w)``: a sign is proven where they leave zero out.
    """
    value, error = np.asarray(points, np.float64), np.zeros_like(points, np.float64)
    for k, step in enumerate(steps):
        magnitude, terms = np.abs(step.kernel), step.kernel.shape[0] + 8
        z = value @ step.kernel + step.bias
        slack = error @ magnitude
        size = np.abs(value) @ magnitude + np.abs(step.bias) + slack
        error = slack + gamma(terms) * size + terms * UNDERFLOW
        if k + 1 < len(steps):
            value = apply(step, z)
            steep = np.maximum(np.abs(step.negative), np.abs(step.positive))
            # The product by a slope rounds once more; |z| + error bounds the true |z|.
            error = steep * (error + gamma(4) * (np.abs(z) + error)) + UNDERFLOW
    return Interval(z - error, z + error)


def apply(step: Step, z: np.ndarray) -> np.ndarray:
    """``h = σ(z)`` in floating point."""
    return np.asarray(np.where(z < 0, step.negative, step.positive) * z)
