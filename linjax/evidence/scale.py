"""How much the outputs vary: the scale of relative errors, however rows are cut into batches."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.evidence.metric import is_logits
from linjax.evidence.objective import centred, floating, tempered
from linjax.evidence.weights import of_outputs

Array = Any

ENOUGH = 2048
"""Samples that tell a metric of more classes than these."""


class OutputStats(NamedTuple):
    """How much an output varies on some rows; with weights numbers are what there is of these.

    Attributes:
      examples: how many rows there are.
      count: ``(q,)`` how many samples: vectors along the output's last axis.
      mean: ``(q,)`` of these, of logits less the mean over their classes.
      scatter: squares about that mean, summed.
      cost: squares in the mean metric of evidence about the means of batches, summed.
      plain: what these are without the metric.
    """

    examples: Array
    count: Array
    mean: Array
    scatter: Array
    cost: Array
    plain: Array


@functools.partial(jax.jit, static_argnames=("metric", "by_row"))
def outputs_of(
    outputs: Any, metric: str, weights: Array | None, examples: Array, by_row: bool = True
) -> tuple[OutputStats, ...]:
    """What the outputs of a batch do, by leaf.

    Args:
      outputs: of the network.
      metric: output metric.
      weights: of the rows, or of their positions.
      examples: how many rows these are.
      by_row: whether inputs have rows: then one number for all of them, a loss, has no scale.
    """
    told = [jnp.zeros(()) if by_row and y.ndim == 0 else y for y in floating(outputs)]
    return tuple(_of_leaf(y, metric, weights, examples) for y in told)


def _of_leaf(y: Array, metric: str, weights: Array | None, examples: Array) -> OutputStats:
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    y = y if y.ndim > 1 else y.reshape(-1, 1)
    logits, width = is_logits(y, metric), y.shape[-1]
    own = jnp.ones((1,) * y.ndim, y.dtype) if weights is None else of_outputs(weights, y)
    own = jnp.broadcast_to(own, y.shape).reshape(-1, width)
    y, at = (jnp.where(own > 0, v.reshape(-1, width), 0) for v in (y, tempered(y, metric)))
    y = centred(y) if logits else y
    count = jnp.sum(own, axis=0)
    mean = jnp.sum(own * y, axis=0) / jnp.maximum(count, 1e-30)
    apart = (y - mean) * jnp.sqrt(own)
    scatter = jnp.sum(apart**2)
    cost = _by_mean_metric(at, jnp.mean(own, axis=1), apart) if logits else scatter
    # A sample by itself says nothing of how outputs vary, but something of how that is weighed.
    alone, square = jnp.all(jnp.sum(own > 0, axis=0) <= 1), jnp.sum(own * y**2)
    mean_weight = jnp.sum(own * (_mean_weight(at) if logits else 1.0)) / width
    cost = jnp.where(alone, square * mean_weight / jnp.maximum(jnp.mean(count), 1e-30), cost)
    return OutputStats(examples, count, mean, scatter, cost, jnp.where(alone, square, scatter))


def _by_mean_metric(logits: Array, weights: Array, apart: Array) -> Array:
    """Squares of what samples are apart in the metric ``G = E diag(p) − E p pᵀ``, summed.

    Not each in its own: what is certain is far from the mean, where its own metric sees nothing,
    and errors are measured in the mean metric, too. Of many samples with many classes some tell it.
    """
    times, product = jnp.float32(1), functools.partial(jnp.matmul, precision="highest")
    if min(apart.shape) > ENOUGH:
        few, every = np.arange(ENOUGH) * len(apart) // ENOUGH, jnp.sum(apart**2)
        logits, weights, apart = logits[few], weights[few], apart[few]
        times = every / jnp.maximum(jnp.sum(apart**2), 1e-30)
    p, shares = jax.nn.softmax(logits), weights / jnp.maximum(jnp.sum(weights), 1e-30)
    likely = product(shares, p)
    apart = apart - product(apart, likely)[:, None]  # which the metric is blind to
    own, (samples, classes) = jnp.sqrt(shares)[:, None] * p, p.shape
    if classes <= samples:
        seen = jnp.sum(product(own.T, own) * product(apart.T, apart))
    else:
        seen = jnp.sum(product(own, apart.T) ** 2)
    return times * jnp.maximum(jnp.sum(product(apart**2, likely)) - seen, 0.0)


def _mean_weight(logits: Array) -> Array:
    """The mean over all directions of what the metric makes of an error: ``tr F / (C − 1)``."""
    p = jax.nn.softmax(logits)
    return jnp.sum(p * (1 - p), axis=-1, keepdims=True) / (p.shape[-1] - 1)


def merged(a: Sequence[OutputStats], b: Sequence[OutputStats]) -> tuple[OutputStats, ...]:
    """What outputs do on two disjoint sets of rows, in float64."""
    return tuple(map(_merged, a, b))


def _merged(a: OutputStats, b: OutputStats) -> OutputStats:
    a, b = map(_wide, (a, b))
    share = b.count / np.maximum(a.count + b.count, 1e-30)
    apart = b.mean - a.mean
    between = np.sum(a.count * share * apart**2)
    summed = OutputStats(*(x + y for x, y in zip(a, b, strict=True)))
    return summed._replace(mean=a.mean + share * apart, scatter=summed.scatter + between)


def _wide(own: OutputStats) -> OutputStats:
    return OutputStats(*(np.asarray(x, np.float64) for x in own))


def variation(own: Sequence[OutputStats]) -> float:
    """Mean square of the outputs about their mean, in the metric of evidence, for an example.

    With the mean metric ``G`` it is ``g Σ ‖y − ȳ‖²`` for the mean ``ȳ`` of all samples, and
    ``g = Σ (y − ȳ_b)ᵀ G_b (y − ȳ_b) / Σ ‖y − ȳ_b‖²`` with those of their batches: exact for one
    batch, and for the identity. Batches of one sample vary by nothing: ``g`` is ``tr F / (q − 1)``.
    """
    total = sum(float(o.scatter * o.cost / o.plain) for o in own if float(o.plain) > 0)
    return total / max(float(own[0].examples), 1e-30) if own else 0.0
