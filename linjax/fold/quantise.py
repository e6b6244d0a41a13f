"""Kernels of one to four bits, in which proportional units become common."""

from typing import Any

import numpy as np

from linjax.chains.check import check_leaves
from linjax.chains.maps import Affine
from linjax.chains.parts import parts_of
from linjax.errors import LinjaxError
from linjax.evidence.given import as_net
from linjax.net import Net
from linjax.program import pytree

__all__ = ["quantise"]

Array = Any

# Clipping points tried for every unit, relative to its largest weight.
CLIPS = np.linspace(0.2, 1.0, 33)


def quantise(net: Net, params: Any, bits: int, *, names: tuple[str, ...] | None = None) -> Any:
    """Rounds the kernels of dense layers to few levels, with one scale a unit.

    ``W_i = s_i q_i`` with integers ``|q| ≤ 2^(bits − 1) − 1``, or ±1 for one bit; the scale
    minimises ``‖W_i − s_i q_i‖``. Biases become whole multiples of the scale, so that units
    are proportional, and :func:`linjax.lump` joins them, where their integers are.

    Args:
      net: the traced network.
      params: its parameters, original or folded.
      bits: 1 to 4.
      names: the affine maps to quantise; all by default.

    Returns:
      A nested dict of arrays of the same shapes and dtypes.

    Raises:
      LinjaxError: for another number of bits, or an unknown name.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.array([[1.0, 2.1, 3.0], [1.1, 1.9, -2.0]]), "out": jnp.eye(3)}
      >>> net = linjax.trace(apply, params, jnp.ones((1, 2)))
      >>> small = linjax.lump(net, linjax.quantise(net, params, 1, names=("in",)))
      >>> small["in"].shape
      (2, 2)
    """
    as_net(net)
    if bits not in (1, 2, 3, 4):
        raise LinjaxError(f"bits: expected 1, 2, 3 or 4, found {bits}")
    known = {affine.name: affine for affine in net.graph.affines}
    for name in names or ():
        if name not in known:
            raise LinjaxError(f"names: no affine map {name!r}; there are {', '.join(known)}")
    flat = net.network.flatten(params)
    check_leaves(net.graph, flat)
    for affine in known.values():
        part = parts_of(affine, flat)
        if part.kernel is None or (names is not None and affine.name not in names):
            continue
        kernel, bias = _rounded(part.kernel, part.bias, bits)
        flat[affine.kernel] = _with(flat[affine.kernel], affine, affine.layout[1], kernel)
        if bias is not None:
            flat[affine.bias_path] = _with(flat[affine.bias_path], affine, 0, bias)
    return pytree.unflatten(flat)


def _with(leaf: Array, affine: Affine, axis: int, value: np.ndarray) -> np.ndarray:
    """A leaf with other values in an affine map's own part of it, units along an axis."""
    changed = np.array(leaf)
    affine.part.take(changed, axis)[...] = value if axis == changed.ndim - 1 else value.T
    return changed


def _rounded(kernel: Array, bias: Array | None, bits: int) -> tuple[np.ndarray, np.ndarray | None]:
    weights = np.asarray(kernel, np.float64)
    step, integers = np.zeros(weights.shape[1]), np.zeros_like(weights)
    least = np.full(weights.shape[1], np.inf)
    for trial in _trials(weights, bits):
        size = (trial**2).sum(axis=0)
        best = (weights * trial).sum(axis=0) / np.where(size > 0, size, 1.0)
        error = ((weights - best * trial) ** 2).sum(axis=0)
        better = error < least
        step, least = np.where(better, best, step), np.where(better, error, least)
        integers = np.where(better, trial, integers)
    if bias is None:
        return step * integers, None
    # A unit without weights is a constant: its bias stays.
    safe = np.where(step > 0, step, 1.0)
    rounded = np.where(step > 0, step * np.round(np.asarray(bias, np.float64) / safe), bias)
    return step * integers, rounded


def _trials(weights: np.ndarray, bits: int) -> list[np.ndarray]:
    """Integers to choose from, per unit."""
    if bits == 1:
        return [np.where(weights < 0, -1.0, 1.0)]
    levels = 2 ** (bits - 1) - 1
    largest = np.abs(weights).max(axis=0, initial=0.0)
    largest = np.where(largest > 0, largest, 1.0)
    scaled = weights / largest * levels
    return [np.clip(np.round(scaled / clip), -levels, levels) for clip in CLIPS]
