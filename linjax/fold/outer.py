"""Sums of outer products of samples: matrices, or of many classes what random sums tell of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.evidence.signs import Seed, signs

Array = Any

WIDEST = 4096
"""Classes whose matrices are held, at most."""
SIGNS = 256
"""Random sums of samples in their place: how far a trace is off, relative to it, is at most about
the root of eight over this."""


class Outer(NamedTuple):
    """``Σ x xᵀ`` over samples x of C classes.

    Attributes:
      diagonal: ``(C,)``.
      whole: ``(C, C)``; ``(C, SIGNS)`` sums of the samples with random signs where there are more
        than :data:`WIDEST` classes; None of outputs that aren't classes.
    """

    diagonal: Array
    whole: Array | None

    def __add__(self, other: Any) -> "Outer":
        whole = None if self.whole is None else self.whole + other.whole
        return Outer(self.diagonal + other.diagonal, whole)


def outer(x: Array, seed: Seed) -> Outer:
    """Sums over ``(samples, C)``.

    Args:
      x: the samples.
      seed: of the random signs, another one for each set of samples.
    """
    by = x
    if x.shape[-1] > WIDEST:
        by = signs(seed, (len(x), SIGNS), x.dtype)
    whole = jnp.matmul(x.T, by, precision=jax.lax.Precision.HIGHEST)
    return Outer(jnp.sum(x**2, axis=0), whole)


def along(a: Outer, b: Outer) -> float:
    """The trace of the product of two such matrices, of independent random signs."""
    if a.whole.shape[0] == a.whole.shape[1]:
        return float(np.sum(a.whole * b.whole))
    return float(np.sum((a.whole.T @ b.whole) ** 2)) / SIGNS**2
