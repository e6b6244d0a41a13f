"""Products with other kernels than the traced ones: of other sizes, or in two factors."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from linjax.dims.depthwise import bound
from linjax.program.flat import Op

Array = Any


class Behind(NamedTuple):
    """What a kernel's first factor makes, and the product of that with a second one."""

    inner: Array
    times: Callable[[Array], Array]


def contracted(op: Op) -> list[tuple[int, int]]:
    """Axes of a product's two operands that are summed over together, but for those of space."""
    if op.name != "conv_general_dilated":
        (contract, _) = op.params["dimension_numbers"]
        return list(zip(*contract, strict=True))
    numbers = op.params["dimension_numbers"]
    groups = op.params["feature_group_count"], op.params["batch_group_count"]
    return [(numbers.lhs_spec[1], numbers.rhs_spec[1])] if groups == (1, 1) else []


def features(op: Op, source: Array, data: int, inner: Array | None, axis: int) -> Array:
    """What a product with a matrix reads, behind a first factor, along an axis of its result."""
    if inner is not None:
        return jnp.moveaxis(inner, -1, axis)
    (contract, _) = op.params["dimension_numbers"]
    return jnp.moveaxis(source, contract[data][0], axis)


def times(op: Op, source: Array, kernel: Array, data: int) -> Array:
    """The product with another kernel; as many groups as it says."""
    values = (source, kernel) if data == 0 else (kernel, source)
    changed = {}
    if op.name == "conv_general_dilated" and op.params["feature_group_count"] > 1:
        numbers = op.params["dimension_numbers"]
        channels = source.shape[numbers.lhs_spec[1]]
        changed["feature_group_count"] = channels // kernel.shape[numbers.rhs_spec[1]]
    return bound(op, [*values], **changed)[0]


def behind(op: Op, source: Array, down: Array, data: int) -> Behind:
    """What a first factor makes, and products of it with second ones.

    Both have as many axes as the kernel. The first reads what it reads; its directions lie along
    one of the axes that the kernel makes, and to the second along one of those that it reads.
    All other axes of what is made, or read, have one entry. A convolution's first factor has its
    extent in space.
    """
    if op.name == "conv_general_dilated":
        return _behind_convolution(op, source, down)
    contract, batch = op.params["dimension_numbers"]
    own, other = (contract, batch) if data == 0 else (contract[::-1], batch[::-1])
    product: Any = functools.partial(
        lax.dot_general,
        precision=op.params["precision"],
        preferred_element_type=op.params["preferred_element_type"],
    )
    inner = product(source, down, (own, other))
    repeats, read = len(other[0]), len(own[1])
    made = down.ndim - repeats - read
    outer = inner.shape[: inner.ndim - made]
    last = tuple(range(len(outer), len(outer) + read))
    front = tuple(range(repeats))

    def second(kernel: Array) -> Array:
        rows = inner.reshape(*outer, *(kernel.shape[n] for n in own[1]))
        if data == 0:
            return product(rows, kernel, ((last, own[1]), (front, other[1])))
        return product(kernel, rows, ((own[1], last), (other[1], front)))

    return Behind(inner, second)


def _behind_convolution(op: Op, source: Array, down: Array) -> Behind:
    numbers = op.params["dimension_numbers"]
    rank = len(numbers.lhs_spec) - 2
    inner = op.bind(source, down)[0]
    # The result of the first is laid out as results are, the second reads it as inputs are.
    order = [0] * inner.ndim
    for out, own in zip(numbers.out_spec, numbers.lhs_spec, strict=True):
        order[own] = out
    inner = inner.transpose(order)
    plain = {
        "window_strides": (1,) * rank, "padding": ((0, 0),) * rank,
        "lhs_dilation": (1,) * rank, "rhs_dilation": (1,) * rank,
    }  # fmt: skip

    def second(kernel: Array) -> Array:
        return op.bind(inner, kernel, **plain)[0]

    return Behind(inner, second)
