"""Exact arithmetic on floats: every finite float is an integer times a power of two."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from linjax.evidence.certify.steps import Step

Array = Any


class Dyadic(NamedTuple):
    """The numbers ``integers · 2**exponent``; Python integers, hence without rounding."""

    integers: Array
    exponent: int

    @classmethod
    def of(cls, array: Array) -> "Dyadic":
        """Returns the floats of ``array``, exactly."""
        mantissa, exponent = np.frexp(np.asarray(array, np.float64))
        integers = (mantissa * 2.0**53).astype(np.int64)
        exponent = np.where(integers == 0, 0, exponent)
        least = int(exponent.min(initial=0))
        shift = (exponent - least).astype(object)
        return cls(integers.astype(object) << shift, least - 53)

    def __matmul__(self, other: "Dyadic") -> "Dyadic":
        product = np.dot(self.integers, other.integers)
        return Dyadic(product, self.exponent + other.exponent)

    def __mul__(self, other: "Dyadic") -> "Dyadic":  # type: ignore[override]
        return Dyadic(self.integers * other.integers, self.exponent + other.exponent)

    def __add__(self, other: "Dyadic") -> "Dyadic":  # type: ignore[override]
        least = min(self.exponent, other.exponent)
        ours = self.integers << (self.exponent - least)
        return Dyadic(ours + (other.integers << (other.exponent - least)), least)

    def sign(self) -> np.ndarray:
        """Returns -1, 0 or 1 for each number."""
        return (self.integers > 0).astype(np.int8) - (self.integers < 0).astype(np.int8)


def preactivation_signs(steps: Sequence[Step], points: Array, units: Array) -> np.ndarray:
    """Signs of the last step's pre-activations, in exact arithmetic.

    Args:
      steps: the steps from the input on.
      points: ``(n, p)`` inputs.
      units: ``(n,)`` the unit to evaluate at each point.

    Returns:
      ``(n,)`` signs, int8.
    """
    value = Dyadic.of(points)
    for step in steps[:-1]:
        z = value @ Dyadic.of(step.kernel) + Dyadic.of(step.bias)
        below = Dyadic(np.minimum(z.integers, 0), z.exponent)
        above = Dyadic(np.maximum(z.integers, 0), z.exponent)
        value = below * Dyadic.of(step.negative) + above * Dyadic.of(step.positive)
    columns = Dyadic.of(steps[-1].kernel[:, units].T)
    products = value * columns
    total = Dyadic(products.integers.sum(axis=1), products.exponent)
    return (total + Dyadic.of(steps[-1].bias[units])).sign()


def lower_signs(kernel: Array, bias: Array, lower: Array, upper: Array) -> np.ndarray:
    """Signs of the least values of ``v W + b`` over the box, column by column, exactly.

    Args:
      kernel: ``(p, n)``.
      bias: ``(n,)``.
      lower: ``(p,)`` least values of v.
      upper: ``(p,)`` greatest values of v.

    Returns:
      ``(n,)`` signs, int8.
    """
    extreme = np.where(kernel > 0, lower[:, None], upper[:, None])
    products = Dyadic.of(kernel) * Dyadic.of(extreme)
    total = Dyadic(products.integers.sum(axis=0), products.exponent)
    return (total + Dyadic.of(bias)).sign()
