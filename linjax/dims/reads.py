"""Products as regressions: what they read as rows, their kernels as matrices.

For a product with kernel leaf W, ``t = v W`` for every sample: v are the features that a place
of the result is made of (for a convolution all taps of all channels). What a product does again
and again with other kernels (heads, groups, experts, steps of a scan) stands in front.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from linjax.dims.network import Network, uses
from linjax.program.flat import Op

Array = Any


LARGEST = 4608
"""Features beyond which a kernel's second moments aren't worth their memory."""


Pick = Callable[[int], Any]
"""Says which of so many samples are wanted: a slice, or their places."""


class Frame(NamedTuple):
    """How a product's operands and result are laid out.

    Attributes:
      op: the product.
      data: place of the operand that depends on the inputs.
      made: number of axes of the kernel that the result has.
      loops: number of scans that it stands in.
    """

    op: Op
    data: int
    made: int
    loops: int


def factorable(network: Network) -> tuple[int, ...]:
    """Products whose kernels may become two factors: used once, as they are, the same everywhere.

    In the order of execution.
    """
    layout, found = network.layout, []
    used = uses(layout)
    for op in layout.program.all_ops():
        product = network.kernels.get(op.outputs[0].id)
        if product is None or product.leaf is None or used[product.leaf] > 1:
            continue
        aval = layout.program.avals[network.ref(product.leaf)]
        frame = frame_of(network, product.op)
        if frame.loops or not jnp.issubdtype(aval.dtype, jnp.floating):
            continue
        index = matrix_index(network, frame, aval.shape)
        if index is None or len(index) > 1 or index.shape[1] > LARGEST:
            continue
        if min(index.shape[1:]) > 1 and not network.twice(product.leaf):
            found.append(product.op)
    return tuple(found)


def frame_of(network: Network, op: int) -> Frame:
    """The layout of a product's operands."""
    own, data = network.layout.makers[op], network.kernels[op].data
    made = 1
    if own.name == "dot_general":
        contract, batch = _dot_axes(own, 1 - data)
        made = len(network.layout.operand(own, 1 - data).spans) - len(contract) - len(batch)
    return Frame(own, data, made, len(network.layout.steps[op]))


def features(
    frame: Frame, source: Array, window: tuple[int, ...], pick: Pick | None = None
) -> Array:
    """What a product reads: ``(repeats, samples, features)``.

    Args:
      frame: the product.
      source: its operand, steps of scans first.
      window: shape of its kernel.
      pick: which samples are wanted; all by default. No others are made.
    """
    if frame.loops:
        inner = frame._replace(loops=frame.loops - 1)
        found = jax.vmap(lambda x: features(inner, x, window, pick))(source)
        return found.reshape(math.prod(found.shape[:2]), *found.shape[2:])
    if frame.op.name == "dot_general":
        contract, batch = _dot_axes(frame.op, frame.data)
        free = [n for n in range(source.ndim) if n not in (*contract, *batch)]
        x = source.transpose(*batch, *free, *contract)
        x = x.reshape(math.prod(_all(source, batch)), math.prod(_all(source, free)), -1)
        return x if pick is None else x[:, pick(x.shape[1])]
    return _patches(frame.op, source, window, pick)


def evenly(most: int) -> Pick:
    """Picks so many samples at most, spread evenly."""

    def pick(samples: int) -> slice:
        step = max(-(-samples // most), 1)
        return slice(None, None, step + (step > 1 and step % 2 == 0))  # not in step with places

    return pick


def thinned(rows: Array, most: int) -> Array:
    """Some of ``(n, samples, w)`` rows, spread evenly."""
    return rows[:, evenly(most)(rows.shape[1])]


def _patches(op: Op, source: Array, window: tuple[int, ...], pick: Pick | None) -> Array:
    numbers, groups = op.params["dimension_numbers"], op.params["feature_group_count"]
    space = np.array([window[n] for n in numbers.rhs_spec[2:]])
    order = (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    around = zip(op.params["padding"], op.params["lhs_dilation"], strict=True)
    padding = [(low, high, holes - 1) for (low, high), holes in around]
    x = source.transpose(order)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *padding, (0, 0, 0)])
    apart, strides = np.array(op.params["rhs_dilation"]), op.params["window_strides"]
    wide = np.array(x.shape[1:-1])
    places = [max(int(n), 0) for n in (wide - (space - 1) * apart - 1) // strides + 1]
    samples = np.arange(x.shape[0] * math.prod(places))
    chosen = samples if pick is None else samples[pick(len(samples))]
    at = np.unravel_index(chosen, (x.shape[0], *places))
    taps = np.indices(tuple(space.tolist())).reshape(len(space), -1)
    index, offset = at[0], np.zeros(taps.shape[1], int)
    for n, size in enumerate(wide):
        index = index * size + at[n + 1] * strides[n]
        offset = offset * size + taps[n] * apart[n]
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # there may be no channel left
    found = jnp.take(rows, index[:, None] + offset, axis=0)
    each = found.shape[1] * found.shape[2] // groups  # channels times taps
    found = found.swapaxes(1, 2).reshape(len(index), groups, each)
    return jnp.moveaxis(found, 1, 0)


def results(frame: Frame, result: Array) -> Array:
    """What a product makes: ``(repeats, samples, made)``."""
    if frame.loops:
        inner = frame._replace(loops=frame.loops - 1)
        found = jax.vmap(lambda x: results(inner, x))(result)
        return found.reshape(math.prod(found.shape[:2]), *found.shape[2:])
    op = frame.op
    if op.name == "dot_general":
        b, last = len(_dot_axes(op, frame.data)[1]), result.ndim - frame.made
        if frame.data == 1:  # the kernel's axes come first
            order = [*range(b), *range(b + frame.made, result.ndim), *range(b, b + frame.made)]
            result = result.transpose(order)
        shape = result.shape
        return result.reshape(math.prod(shape[:b]), math.prod(shape[b:last]), -1)
    numbers, groups = op.params["dimension_numbers"], op.params["feature_group_count"]
    x = result.transpose(numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    x = x.reshape(math.prod(x.shape[:-1]), groups, x.shape[-1] // groups)
    return jnp.moveaxis(x, 1, 0)


def matrix(frame: Frame, kernel: Array) -> Array:
    """A kernel as it is used, as ``(repeats, features, made)``."""
    op = frame.op
    if frame.loops:
        inner = frame._replace(loops=frame.loops - 1)
        found = np.stack([matrix(inner, k) for k in kernel])
        return found.reshape(math.prod(found.shape[:2]), *found.shape[2:])
    if op.name == "dot_general":
        contract, batch = _dot_axes(op, 1 - frame.data)
        free = [n for n in range(kernel.ndim) if n not in (*contract, *batch)]
        x = kernel.transpose(*batch, *contract, *free)
        count = math.prod(_all(kernel, contract))
        made = math.prod(_all(kernel, free))
        return x.reshape(math.prod(_all(kernel, batch)), count, made)
    numbers, groups = op.params["dimension_numbers"], op.params["feature_group_count"]
    made, read, *space = numbers.rhs_spec
    x = kernel.transpose(read, *space, made)
    x = x.reshape(math.prod(x.shape[:-1]), groups, kernel.shape[made] // groups)
    return np.moveaxis(np.asarray(x), 1, 0)


def matrix_index(network: Network, frame: Frame, shape: tuple[int, ...]) -> np.ndarray | None:
    """Places in a kernel's leaf of the entries of its matrix; None if it is used otherwise."""
    index = np.arange(math.prod(shape)).reshape(shape)
    operand: Any = frame.op.inputs[1 - frame.data]
    way = []
    while operand.id in network.layout.makers:
        op = network.layout.makers[operand.id]
        if op.name not in ("transpose", "convert_element_type", "copy", "name", "stop_gradient"):
            return None
        way.append(op)
        operand = op.inputs[0]
    steps = {span.dim for span in network.layout.steps[frame.op.outputs[0].id]}
    own = network.layout.leaves[network.kernels[frame.op.outputs[0].id].leaf]
    if frame.loops and (way or not steps <= {d for span in own for d in span.dims()}):
        return None
    for op in reversed(way):
        if op.name == "transpose":
            index = index.transpose(op.params["permutation"])
    return matrix(frame, index)


def _dot_axes(op: Op, side: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Contracted and batch axes of an operand."""
    contract, batch = op.params["dimension_numbers"]
    return tuple(contract[side]), tuple(batch[side])


def _all(value: Array, axes: Any) -> tuple[int, ...]:
    return tuple(value.shape[n] for n in axes)
