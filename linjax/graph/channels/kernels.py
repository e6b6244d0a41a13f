"""Reading convolutions from a parameter pytree as matrices, and writing them back.

Beside a kernel leaf ``W`` a folded pytree may hold

    W_linear         kernel of the linear channels, in the layout of W
    W_linear_bias    their bias
    W_bias           a bias, where the traced network had none

and lack the parameters of a per-channel affine map behind it, which has then been
multiplied into the kernel. A convolution without kernels has disappeared: see ``vanished``.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.graph.channels.members import Width
from linjax.graph.channels.spreads import evaluate
from linjax.graph.maps import Affine, Convolution, Path, Scaling
from linjax.graph.pytree import Flat, on_device, on_host
from linjax.graph.structure import Reading

Array = Any

EXTRAS = ("linear", "linear_bias")


class Kernel(NamedTuple):
    """A convolution in float64 on the host, its per-channel affine map multiplied in.

    Attributes:
      kernel: ``(taps, p, k)``, zeros between groups.
      bias: ``(k,)``.
      linear: ``(taps, p, r)`` kernel of the linear channels, r = 0 without any.
      linear_bias: ``(r,)``.
    """

    kernel: Array
    bias: Array
    linear: Array
    linear_bias: Array


def slope_and_offset(scaling: Scaling | None, flat: Flat) -> tuple[Array, Array] | None:
    """Returns a, b of the per-unit affine map ``z ↦ a z + b``; None where there is none."""
    if scaling is None or scaling.leaves[0] not in flat:
        return None
    leaves = {path: np.asarray(flat[path]) for path in scaling.leaves}
    slope, offset = np.ones(1), np.zeros(1)
    for step in scaling.steps:
        value = evaluate(step.operand, leaves)
        match step.op:
            case "add":
                offset = offset + value
            case "sub":
                offset = offset - value
            case "rsub":
                slope, offset = -slope, value - offset
            case "mul":
                slope, offset = slope * value, offset * value
            case "div":
                slope, offset = slope / value, offset / value
    size = math.prod(leaves[scaling.leaves[0]].shape)
    return np.broadcast_to(slope, (size,)), np.broadcast_to(offset, (size,))


def read(conv: Convolution, flat: Flat) -> Kernel:
    """Reads a convolution's leaves.

    Raises:
      StructureError: if values aren't finite.
    """

    def matrices(path: Path) -> Array | None:
        leaf = flat.get(path)
        if leaf is None:
            return None
        value = np.transpose(on_host(path, leaf), conv.axes)
        return _whole(value.reshape(-1, *value.shape[-2:]), conv.groups)

    def vector(path: Path, size: int) -> Array:
        leaf = flat.get(path)
        return np.zeros(size) if leaf is None else on_host(path, leaf).reshape(-1)

    kernel, linear = matrices(conv.kernel), matrices(conv.extra("linear"))
    if kernel is None:
        shape = (conv.taps, conv.inputs) if linear is None else linear.shape[:2]
        kernel = np.zeros((*shape, 0))
    if linear is None:
        linear = np.zeros((*kernel.shape[:2], 0))
    bias = vector(conv.bias_path, kernel.shape[2])
    found = slope_and_offset(conv.scaling, flat)
    if found is not None:
        slope, offset = found
        kernel, bias = kernel * slope, bias * slope + offset
    return Kernel(kernel, bias, linear, vector(conv.extra("linear_bias"), linear.shape[2]))


def _whole(value: Array, groups: int) -> Array:
    """A kernel of groups ``(taps, p / groups, k)`` as one ``(taps, p, k)``, zeros between them."""
    if groups == 1:
        return value
    taps, p, k = value.shape
    own = np.arange(groups)
    whole = np.zeros((taps, groups, p, groups, k // groups))
    whole[:, own, :, own] = np.moveaxis(value.reshape(taps, p, groups, -1), 2, 0)
    return whole.reshape(taps, groups * p, k)


def _blocks(whole: Array, groups: int) -> Array:
    """Undoes :func:`_whole`."""
    if groups == 1:
        return whole
    taps, p, k = whole.shape
    own = np.arange(groups)
    blocks = whole.reshape(taps, groups, p // groups, groups, k // groups)[:, own, :, own]
    return np.moveaxis(blocks, 0, 2).reshape(taps, p // groups, k)


def restricted(conv: Convolution, leaf: Array, inputs: Array, outputs: Array) -> Array:
    """Returns a kernel leaf's entries of some inputs and outputs, as many in each group."""
    value = np.transpose(leaf, conv.axes)
    window = value.shape[:-2]
    whole = _whole(value.reshape(-1, *value.shape[-2:]), conv.groups)[:, inputs][:, :, outputs]
    blocks = _blocks(whole, conv.groups)
    return blocks.reshape(*window, *blocks.shape[1:]).transpose(np.argsort(conv.axes))


def write(conv: Convolution, flat: Flat, new: Kernel, window: Sequence[int] | None = None) -> Flat:
    """Returns the pytree with a convolution's leaves replaced; what has no entries is left out.

    Args:
      conv: the convolution.
      flat: the pytree.
      new: its kernels and biases.
      window: their extent in space; by default the one that they have had.
    """
    like = next(flat[p] for p in (conv.kernel, conv.extra("linear")) if p in flat)
    shape = jnp.shape(flat[conv.bias]) if conv.bias in flat else None
    extent = [jnp.shape(like)[a] for a in conv.axes[:-2]] if window is None else window
    flat = without(conv, flat)

    def put(path: Path, value: Array) -> None:
        flat[path] = on_device(value, like.dtype)

    def turned(value: Array) -> Array:
        value = _blocks(value, conv.groups)
        return value.reshape(*extent, *value.shape[1:]).transpose(np.argsort(conv.axes))

    if new.kernel.shape[2]:
        put(conv.kernel, turned(new.kernel))
        if conv.bias is not None or np.any(new.bias):
            keep = shape is not None and len(shape) > 1
            put(conv.bias_path, new.bias.reshape([-1 if n != 1 else 1 for n in shape])
                if keep else new.bias)  # fmt: skip
    if new.linear.shape[2]:
        put(conv.extra("linear"), turned(new.linear))
        if np.any(new.linear_bias):
            put(conv.extra("linear_bias"), new.linear_bias)
    return flat


def without(conv: Convolution, flat: Flat) -> Flat:
    """Returns the pytree without a convolution's leaves."""
    own = {conv.kernel, conv.bias_path, *map(conv.extra, EXTRAS)}
    own.update(() if conv.scaling is None else conv.scaling.leaves)
    return {path: leaf for path, leaf in flat.items() if path not in own}


def read_rows(affine: Affine, reading: Reading, flat: Flat, own: Width) -> Array:
    """Reads a dense reader's kernel as ``(taps, channels, q)``, a tap for each place."""
    leaf = on_host(affine.kernel, flat[affine.kernel])
    rows = leaf if affine.layout == (0, 1) else leaf.T
    return by_tap(rows, reading, own)


def by_tap(rows: Array, reading: Reading, own: Width) -> Array:
    """Orders a matrix's rows, one for each flattened feature, as ``(taps, channels, q)``."""
    outer, inner = reading.outer, reading.inner
    cut = outer * own.units * inner
    parts = [
        block.reshape(outer, n, inner, rows.shape[1])
        .swapaxes(1, 2)
        .reshape(outer * inner, n, rows.shape[1])
        for block, n in ((rows[:cut], own.units), (rows[cut:], own.linears))
    ]
    return np.concatenate(parts, axis=1)


def from_taps(rows: Array, reading: Reading, own: Width) -> Array:
    """Undoes :func:`by_tap`."""
    outer, inner, q = reading.outer, reading.inner, rows.shape[2]
    blocks = [
        block.reshape(outer, inner, n, q).swapaxes(1, 2).reshape(outer * n * inner, q)
        for block, n in ((rows[:, : own.units], own.units), (rows[:, own.units :], own.linears))
    ]
    return np.concatenate(blocks)


def write_rows(
    affine: Affine, reading: Reading, flat: Flat, rows: Array, own: Width, bias: Array
) -> Flat:
    """Returns the pytree with a dense reader's kernel ``(taps, channels, q)`` and bias replaced."""
    flat = dict(flat)
    like = flat[affine.kernel]
    value = from_taps(rows, reading, own)
    value = value if affine.layout == (0, 1) else value.T
    flat[affine.kernel] = on_device(value, like.dtype)
    if affine.bias is not None or np.any(bias):
        flat[affine.bias_path] = on_device(bias, like.dtype)
    return flat
