"""Second moments of the features along a chain, what least squares folds by.

For a chain with sites 1 … n the features of the *traced* network are stacked as
``a = [v_0, h_1, …, h_n]``: the chain's input and every site's activations. Any layer's
features are a linear map of ``a``, hence so are all pre-activations, and one pass over
the data serves every fold.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

Array = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """Weighted first and second moments of ``a``, by folds of the rows, in float64.

    Attributes:
      count: ``(F,)`` rows (samples) in each fold of the rows, or their weight.
      mean: ``(F, D)`` means of ``a``.
      scatter: ``(F, D, D)`` centred sums of outer products, ``Σ (a − mean)(a − mean)ᵀ``;
        symmetric, divided by nothing.
      sensitivity: one ``(q, q)`` matrix ``G = E[Jᵀ F J]`` per layer of the chain, for the
        layer's pre-activation ``z`` (several consumers side by side); J is the Jacobian
        of the network's outputs by z, F the output metric. Errors in z measured in G are
        errors of the outputs to first order.
      blocks: sizes of the blocks of ``a``: ``(p_0, m_1, …, m_n)``.
    """

    count: Array
    mean: Array
    scatter: Array
    sensitivity: tuple[Array, ...]
    blocks: tuple[int, ...] = dataclasses.field(metadata={"static": True})


def merge_scatter(
    count_a: Array, mean_a: Array, scatter_a: Array, count_b: Array, mean_b: Array, scatter_b: Array
) -> tuple[Array, Array, Array]:
    """Merges centred moments of two sets of rows (Chan, Golub & LeVeque 1983)."""
    count = count_a + count_b
    share = np.where(count > 0, count_b / np.where(count > 0, count, 1), 0.0)
    delta = mean_b - mean_a
    mean = mean_a + share[..., None] * delta
    outer = delta[..., :, None] * delta[..., None, :]
    scatter = scatter_a + scatter_b + (count_a * share)[..., None, None] * outer
    return count, mean, scatter


def pooled(moments: Moments, folds: Array | None = None) -> tuple[float, Array, Array]:
    """Returns (count, mean, covariance) of the rows in the given folds (all by default)."""
    chosen = range(len(moments.count)) if folds is None else list(folds)
    count, mean, scatter = (
        0.0,
        np.zeros(moments.mean.shape[1:]),
        np.zeros(moments.scatter.shape[1:]),
    )
    for f in chosen:
        count, mean, scatter = merge_scatter(
            np.asarray(count), mean, scatter,
            moments.count[f], moments.mean[f], moments.scatter[f],
        )  # fmt: skip
    return float(count), mean, scatter / max(float(count), 1.0)
