"""The output metric: how errors of the outputs are weighed against each other."""

from typing import Any

import jax
import jax.numpy as jnp

from linjax.dims.layout import Layout
from linjax.dims.values import Source
from linjax.errors import EvidenceError
from linjax.program.flat import Ref

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
    """Returns the metric for a network: that asked for, else what its outputs suggest.

    Nothing tells the logits of a classification from a regression's columns for certain. By shape
    as :func:`chosen`; but the identity for what a last nonlinear function bounds (tanh, a
    sigmoid, a softmax: no logits are such) and for outputs that an input is added to (they live
    where inputs do). Evidence, comparisons and reports say which it is.

    Args:
      metric: what was asked for, or None.
      net: the traced network.
    """
    if metric is not None:
        return chosen(metric, None)
    outputs = jax.eval_shape(net.apply_fn, net.template, *net.example)
    if chosen(None, outputs) == "identity" or _no_logits(net.network.layout):
        return "identity"
    return "softmax"


_SHOWN = frozenset((
    "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy",
    "broadcast_in_dim", "sharding_constraint", "stop_gradient", "name", "slice",
))  # fmt: skip
_BOUNDING = frozenset((
    "tanh", "logistic", "exp", "erf", "sin", "cos", "max", "min", "clamp", "sqrt", "abs",
    "square", "integer_pow", "sign", "round",
))  # fmt: skip


def _no_logits(layout: Layout) -> bool:
    """Whether some output is bounded, or an input with something added to it."""
    return any(_bounded(layout, o) for o in layout.program.outputs)


def _bounded(layout: Layout, value: Any) -> bool:
    inputs = set(layout.inputs)
    while isinstance(value, Ref) and value.id in layout.makers:
        op = layout.makers[value.id]
        if op.name in ("add", "sub", "add_any"):
            return any(_is_input(layout, o, inputs) for o in op.inputs)
        if op.name == "div":
            return layout.operand(op, 1).source is Source.DATA  # else a temperature
        if op.name not in _SHOWN:
            return op.name in _BOUNDING
        value = op.inputs[0]
    return False


def _is_input(layout: Layout, value: Any, inputs: set[Ref]) -> bool:
    """Whether a value is one of the network's inputs, laid out otherwise."""
    while isinstance(value, Ref) and value not in inputs and value.id in layout.makers:
        op = layout.makers[value.id]
        if op.name not in _SHOWN:
            return False
        value = op.inputs[0]
    return isinstance(value, Ref) and value in inputs
