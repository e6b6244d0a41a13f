"""The output metric: how errors of the outputs are weighed against each other."""

from typing import Any

import jax
import jax.numpy as jnp

from linjax.errors import EvidenceError

Array = Any
METRICS = ("softmax", "identity")


def is_logits(leaf: Array, metric: str) -> bool:
    """Whether an output is weighed as logits: classes along an axis behind that of the rows."""
    return metric == "softmax" and leaf.ndim >= 2 and leaf.shape[-1] >= 2


def chosen(metric: str | None, outputs: Any) -> str:
    """Returns the metric that was asked for, or the one that outputs of these shapes suggest.

    The softmax's where a single floating output (or several of one shape) has rows and at least
    two columns, as logits have; else the identity: one column or one number a row, which no
    softmax can tell from another, and outputs of different shapes, which aren't all logits.

    Args:
      metric: one of :data:`METRICS`, or None.
      outputs: arrays, or their shapes and dtypes.

    Raises:
      EvidenceError: for another metric.
    """
    if metric is not None:
        if metric not in METRICS:
            raise EvidenceError(
                f"metric = {metric!r}, expected one of {', '.join(METRICS)}, or None: as the "
                "outputs' shapes suggest"
            )
        return metric
    floats = [y for y in jax.tree.leaves(outputs) if jnp.issubdtype(y.dtype, jnp.floating)]
    alike = len({(y.ndim, y.shape[-1:]) for y in floats}) == 1
    return "softmax" if alike and is_logits(floats[0], "softmax") else "identity"


def settled(metric: str | None, net: Any) -> str:
    """Returns the metric for a network, as :func:`chosen`."""
    if metric is not None:
        return chosen(metric, None)
    return chosen(None, jax.eval_shape(net.apply_fn, net.template, *net.example))
