"""Operands whose axes have to become as long as the others': constants, and parameters beside
linear coordinates."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from linjax.dims.layout import Held
from linjax.dims.sizes import Sizes
from linjax.dims.span import Span, places

Array = Any


def fitted(value: Array, held: Held, sizes: Sizes, result: Held | None) -> Array:
    """An operand at the sizes that its dimensions have where it is used.

    Args:
      value: the operand.
      held: what is known of it.
      sizes: sizes of the dimensions.
      result: of parameters alone, of which there are entries for linear coordinates only where
        these are read; None where there are entries for all.
    """
    shape = jnp.shape(value)
    for n, span in enumerate(held.spans):
        wanted = span.now(sizes.all if result is None else sizes.of(result, n))
        if shape[n] is wanted or shape[n] == wanted:
            continue
        if not held.varies[n]:
            value = _repeated(value, n, wanted)
        elif result is None or set(span.dims()) & result.read:
            value = _padded(value, n, kept(span, sizes, sizes.beside))
    return value


def _repeated(value: Array, axis: int, size: int) -> Array:
    """A value that is the same along an axis, at another size."""
    shape = list(jnp.shape(value))
    shape[axis] = size
    first = value[(slice(None),) * axis + (slice(0, 1),)]
    if not first.shape[axis]:
        return jnp.zeros(shape, first.dtype)  # nobody sees it
    return jnp.broadcast_to(first, shape)


def _padded(value: Array, axis: int, mask: np.ndarray) -> Array:
    """A value with ones at linear coordinates, which nobody sees."""
    size = _leading(mask)
    if size is not None:
        shape = (*value.shape[:axis], len(mask) - size, *value.shape[axis + 1 :])
        return jnp.concatenate([value, jnp.ones_like(value, shape=shape)], axis=axis)
    index = np.where(mask, np.cumsum(mask) - 1, int(mask.sum()))
    one = jnp.ones_like(value, shape=(*value.shape[:axis], 1, *value.shape[axis + 1 :]))
    return jnp.take(jnp.concatenate([value, one], axis=axis), index, axis=axis)


def read(
    values: list[Array], axes: tuple[int, int], span: Span, sizes: Sizes, unread: frozenset[int]
) -> list[Array]:
    """Operands of a product without linear coordinates that one has zeros for, if they are last.

    Args:
      values: the two operands.
      axes: of each of them, to be summed over together.
      span: what these are.
      sizes: sizes of the dimensions.
      unread: those at whose linear coordinates there are zeros.
    """
    size = _leading(kept(span, sizes, unread & set(sizes.beside)))
    if size is None:
        return values
    return [lax.slice_in_dim(x, 0, size, axis=n) for x, n in zip(values, axes, strict=True)]


def kept(span: Span, sizes: Sizes, dims: Iterable[int]) -> np.ndarray:
    """Which entries of an axis are no linear coordinates of some dimensions."""
    mask = np.ones(span.now(sizes.all), bool)
    for dim in set(span.dims()) & set(dims):
        mask[places(span, dim, sizes.all)[:, sizes.kept[dim] :]] = False
    return mask


def _leading(mask: np.ndarray) -> int | None:
    """How many entries a mask has if these are the first, else None."""
    size = int(mask.sum())
    return size if mask[:size].all() else None


def merged(value: Array, root: Array, held: Held, dim: int, sizes: Sizes) -> Array:
    """A value whose entries at a dimension's linear coordinates are those of its root."""
    for n, span in enumerate(held.spans):
        if dim in span.dims():
            mask = kept(span, sizes, [dim])
            if mask.all():
                return value
            size = _leading(mask)
            if size is not None and root.shape == value.shape:  # nothing is made to be dropped
                front = lax.slice_in_dim(value, 0, size, axis=n)
                back = lax.slice_in_dim(root, size, len(mask), axis=n)
                return jnp.concatenate([front, back.astype(value.dtype)], axis=n)
            behind = (1,) * (value.ndim - n - 1)
            return jnp.where(mask.reshape(-1, *behind), value, root.astype(value.dtype))
    return value
