"""Convolutions of every channel by itself, as a primitive that is fast on CPUs.

XLA runs these on CPUs one number at a time, and their derivatives slower still: 10 to 500 times as
long as sums over the taps of a kernel, which it fuses into one loop. Derivatives by the input are
again such sums. Elsewhere the primitive is lowered to the convolution that it stands for. Whoever
reads a program's operations sees that, too: an export by :func:`linjax.program.traced.as_traced`, a
trace also where a function was compiled before, and JAX remembers it.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from linjax.program.flat import Op
from linjax.program.plain import means
from linjax.program.traced import is_as_traced

Array = Any
Axes = tuple[int, ...]

TAPS = 121
"""Taps of the largest kernel that is written out."""


class Window(NamedTuple):
    """How a kernel moves over its input, by axis of space.

    Attributes:
      strides: from one place to the next.
      padding: zeros before and behind; fewer than none cut.
      holes: what the input is dilated by.
      apart: what the kernel is dilated by.
      precision: of the convolution, where there is one.
    """

    strides: Axes
    padding: tuple[tuple[int, int], ...]
    holes: Axes
    apart: Axes
    precision: Any = None


def bound(op: Op, values: list[Array], **changed: Any) -> tuple[Array, ...]:
    """Applies an operation as it is traced, or as is best; some of its parameters changed."""
    if op.name == "conv_general_dilated":
        params = {**op.params, **changed}
        if op.context is None and _wanted(params, *values):
            return (_convolved(params, *values),)
    return op.bind(*values, **changed)


def _wanted(params: dict[str, Any], source: Array, kernel: Array) -> bool:
    groups, numbers = params["feature_group_count"], params["dimension_numbers"]
    if groups < 2 or is_as_traced() or source.dtype != kernel.dtype:
        return False
    space = [kernel.shape[n] for n in numbers.rhs_spec[2:]]
    return (
        source.shape[numbers.lhs_spec[1]] == groups == kernel.shape[numbers.rhs_spec[0]]
        and kernel.shape[numbers.rhs_spec[1]] == 1
        and params["batch_group_count"] == 1
        and params["preferred_element_type"] in (None, source.dtype)
        and jnp.issubdtype(source.dtype, jnp.floating)
        and 0 < math.prod(space) <= TAPS
        and 0 not in source.shape
    )


def _convolved(params: dict[str, Any], source: Array, kernel: Array) -> Array:
    """The same convolution, channels last."""
    left, right, out = params["dimension_numbers"]
    window = Window(
        tuple(params["window_strides"]), tuple(map(tuple, params["padding"])),
        tuple(params["lhs_dilation"]), tuple(params["rhs_dilation"]),
        params["precision"],
    )  # fmt: skip
    x = source.transpose(left[0], *left[2:], left[1])
    k = kernel.transpose(*right[2:], right[1], right[0])
    y = depthwise_p.bind(x, k.reshape(*k.shape[:-2], k.shape[-1]), window=window)
    order = [0] * y.ndim
    for at, axis in enumerate((out[0], *out[2:], out[1])):
        order[axis] = at
    return y.transpose(order)


def _plain(x: Array, k: Array, *, window: Window) -> Array:
    """What the primitive means: ``(n, *space, c)`` by ``(*taps, c)``."""
    rank = k.ndim - 1
    letters = "DHW"[-rank:] if rank <= 3 else "".join(map(chr, range(ord("a"), ord("a") + rank)))
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return lax.conv_general_dilated(
        x, k[..., None, :], window.strides, window.padding, window.holes, window.apart,
        numbers, feature_group_count=k.shape[-1], precision=window.precision,
    )  # fmt: skip


def _shifted(x: Array, k: Array, *, window: Window) -> Array:
    """The sum over taps."""
    x, wide = _padded(x, window), jnp.promote_types(x.dtype, jnp.float32)
    total: Array = 0
    for tap in itertools.product(*map(range, k.shape[:-1])):
        total += _seen(x, tap, k.shape[:-1], window).astype(wide) * k[tap].astype(wide)
    return total.astype(x.dtype)


def _padded(x: Array, window: Window) -> Array:
    around = [(a, b, h - 1) for (a, b), h in zip(window.padding, window.holes, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])


def _seen(x: Array, tap: Axes, taps: Axes, window: Window) -> Array:
    """What a tap sees of a padded input, by place."""
    start = [i * d for i, d in zip(tap, window.apart, strict=True)]
    around = zip(x.shape[1:-1], taps, window.apart, strict=True)
    last = [size - (n - 1) * d - 1 for size, n, d in around]  # the last place of the first tap
    ends = zip(start, last, window.strides, strict=True)
    stop = [a + max(b // s * s + 1, 0) for a, b, s in ends]
    strides = (1, *window.strides, 1)
    return lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), strides)


def _shape(x: Any, k: Any, *, window: Window) -> Any:
    found = jax.eval_shape(functools.partial(_plain, window=window), x, k)
    return jax.core.ShapedArray(found.shape, found.dtype)


def _by_input(y: Array, x: Any, k: Array, *, window: Window) -> Array:
    """The derivative by the input: what came of it, spread by the kernel turned round."""
    size, made = x.aval.shape[1:-1], y.shape[1:-1]
    padding = []
    each = zip(size, made, k.shape[:-1], *window[:4], strict=True)
    for n, m, taps, stride, (low, _), hole, apart in each:
        reach, width = (taps - 1) * apart, (n - 1) * hole + 1
        before = reach - low
        padding.append((before, width + reach - ((m - 1) * stride + 1) - before))
    turned = k[tuple(slice(None, None, -1) for _ in k.shape[:-1])]
    back = Window(window.holes, tuple(padding), window.strides, window.apart, window.precision)
    return depthwise_p.bind(y, turned, window=back)


def _by_kernel(y: Array, x: Array, k: Any, *, window: Window) -> Array:
    """The derivative by the kernel: for every tap the products with what it saw, summed."""
    x, taps = _padded(x, window), k.aval.shape[:-1]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    along = tuple(range(y.ndim - 1))
    found = [
        jnp.sum(_seen(x, tap, taps, window).astype(wide) * y.astype(wide), axis=along)
        for tap in itertools.product(*map(range, taps))
    ]
    return jnp.stack(found).reshape(k.aval.shape).astype(k.aval.dtype)


def _many(values: Any, axes: Any, *, window: Window) -> tuple[Array, int]:
    """Several at once: more rows, or where each has a kernel more channels."""
    (x, k), (along, own) = values, axes
    if own is None:
        x = jnp.moveaxis(x, along, 0)
        y = depthwise_p.bind(x.reshape(-1, *x.shape[2:]), k, window=window)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    count, k = k.shape[own], jnp.moveaxis(k, own, -1)
    if along is None:
        x = jnp.broadcast_to(x[..., None], (*x.shape, count))
    else:
        x = jnp.moveaxis(x, along, -1)
    x, k = (v.reshape(*v.shape[:-2], -1) for v in (x, k))
    y = depthwise_p.bind(x, k, window=window)
    return y.reshape(*y.shape[:-1], -1, count), y.ndim


@functools.partial(jax.jit, static_argnames="window")
def _run(x: Array, k: Array, *, window: Window) -> Array:
    return depthwise_p.bind(x, k, window=window)


depthwise_p = Primitive("depthwise_conv")
depthwise_p.def_impl(_run)
depthwise_p.def_abstract_eval(_shape)
means(depthwise_p, _plain)
ad.defbilinear(depthwise_p, _by_input, _by_kernel)
batching.primitive_batchers[depthwise_p] = _many
mlir.register_lowering(depthwise_p, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(
    depthwise_p, mlir.lower_fun(_shifted, multiple_results=False), platform="cpu"
)
