"""What an affine map reads at a time, as rows: patches of images, at some of their places."""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = Any


class Windows(NamedTuple):
    """How a reader slides over what it reads.

    Attributes:
      axes: axes of the operand in the order (batch, space …, channels).
      shape: extent of the kernel in space; empty for a dense layer.
      strides: steps in space.
      padding: entries added at both ends of each axis of space.
      spaced: dilation of the operand.
      dilation: dilation of the kernel.
      outer: for a dense layer, places flattened in front of the channels.
      inner: likewise behind them.
    """

    axes: tuple[int, ...]
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    spaced: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    outer: int = 1
    inner: int = 1

    @property
    def taps(self) -> int:
        """Number of places that are read together."""
        return math.prod(self.shape) * self.outer * self.inner


def of_convolution(params: dict[str, Any], shape: tuple[int, ...]) -> Windows:
    """Reads the windows off a convolution's parameters and its operand's and kernel's shapes."""
    numbers = params["dimension_numbers"]
    batch, channels, *space = numbers.lhs_spec
    return Windows(
        axes=(batch, *space, channels),
        shape=tuple(shape[a] for a in numbers.rhs_spec[2:]),
        strides=tuple(params["window_strides"]),
        padding=tuple(tuple(p) for p in params["padding"]),
        spaced=tuple(params["lhs_dilation"]),
        dilation=tuple(params["rhs_dilation"]),
    )


def of_product(rank: int, axis: int, outer: int, inner: int) -> Windows:
    """The windows of a dense layer: all that was flattened beside the channels."""
    rest = [a for a in range(rank) if a != axis]
    return Windows(axes=(*rest, axis), outer=outer, inner=inner)


def patches(x: Array, windows: Windows, places: int, key: Array) -> Array:
    """Returns what is read at some places of every example, ``(rows, places, taps, channels)``.

    Args:
      x: the operand; the first of ``windows.axes`` runs over examples.
      windows: how it is read.
      places: the largest number of places; if there are more, as many are drawn at random,
        the same in all examples.
      key: for drawing them.
    """
    x = jnp.transpose(x, windows.axes)
    if not windows.shape:
        channels = x.shape[-1] // (windows.outer * windows.inner)
        x = x.reshape(x.shape[0], -1, windows.outer, channels, windows.inner)
        x = x[:, drawn(x.shape[1], places, key)]
        return x.swapaxes(-1, -2).reshape(*x.shape[:2], -1, channels)
    config = [(low, high, hole - 1) for (low, high), hole in zip(windows.padding, windows.spaced,
                                                                 strict=True)]  # fmt: skip
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    reach = [(w - 1) * d + 1 for w, d in zip(windows.shape, windows.dilation, strict=True)]
    made = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, windows.strides, strict=True)]
    where = jnp.unravel_index(drawn(math.prod(made), places, key), made)
    taps = list(itertools.product(*map(range, windows.shape)))
    index = tuple(
        (at * stride)[:, None] + jnp.array([tap[a] * dilation for tap in taps])
        for a, (at, stride, dilation) in enumerate(
            zip(where, windows.strides, windows.dilation, strict=True)
        )
    )
    return x[(slice(None), *index)]


def drawn(total: int, places: int, key: Array) -> Array:
    """Returns the numbers of the places that are looked at, of so many."""
    if total <= places:
        return jnp.arange(total)
    return jax.random.permutation(key, total)[:places]
