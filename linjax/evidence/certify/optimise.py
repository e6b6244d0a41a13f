"""Optimises the slopes α and the split multipliers β of many rows at once."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from linjax.evidence.certify.crown import Bound, Relaxed, Rows, upper_bound
from linjax.evidence.certify.interval import Interval

Array = Any
Params = tuple[Array, ...]

LEARNING_RATE = 0.2
# What is left of the rate at the last step.
DECAY = 0.05


class _State(NamedTuple):
    params: Params
    mean: Params
    square: Params
    best: Params
    value: Array
    time: Array


class Bounded(NamedTuple):
    """Bounds of rows on the host: see :class:`~linjax.evidence.certify.crown.Bound`.

    Attributes:
      value: ``(n,)`` rigorous upper bounds.
      point: ``(n, p)`` corners of the box where the linear bounds are attained.
      params: per step ``(n, w)``, the α and β that give these bounds.
    """

    value: Array
    point: Array
    params: Params


def bound_rows(
    relaxed: tuple[Relaxed, ...],
    box: Interval,
    rows: Rows,
    params: Params,
    splits: tuple[Array, ...],
    *,
    goal: Array,
    steps: int,
    batch: int,
) -> Bounded:
    """Bounds any number of rows, ``batch`` at a time; see :func:`optimise`."""

    def bound(*arrays: Array) -> Bounded:
        rows, params, splits, goal = jax.tree.unflatten(form, arrays)
        # In one precision, so that one program serves with and without splits. What single
        # precision holds comes back as it is.
        wide = tuple(p.astype(np.float64) for p in params)
        found, stored = optimise(relaxed, box, rows, wide, splits, goal, float(steps))
        narrow = (np.asarray(s).astype(p.dtype) for s, p in zip(stored, params, strict=True))
        return Bounded(found.value, found.point, tuple(narrow))

    arrays, form = jax.tree.flatten((rows, params, splits, goal))
    return in_batches(bound, batch, *arrays)


def in_batches(
    function: Callable[..., Any], batch: int, *arrays: Array, deadline: float = float("inf")
) -> Any:
    """Maps a jitted function over the leading axis in batches of one size: one compilation.

    Past the deadline no further batch is begun; the result then has fewer rows.
    """
    count = len(arrays[0])
    parts: list[Any] = []
    for start in range(0, max(count, 1), batch):
        if parts and time.monotonic() > deadline:
            break
        index = np.minimum(np.arange(start, start + batch), max(count - 1, 0))
        size = min(batch, count - start)
        part = function(*(a[index] if count else np.zeros((batch, *a.shape[1:]), a.dtype)
                          for a in map(np.asarray, arrays)))  # fmt: skip
        parts.append(jax.tree.map(lambda a, size=size: np.asarray(a)[:size], part))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@jax.jit
def optimise(
    relaxed: tuple[Relaxed, ...],
    box: Interval,
    rows: Rows,
    params: Params,
    splits: tuple[Array, ...],
    goal: Array,
    steps: Array,
) -> tuple[Bound, Params]:
    """Lowers the upper bounds of the rows by projected Adam; every iterate is sound.

    Args:
      relaxed, box, rows, splits: see :func:`~linjax.evidence.certify.crown.upper_bound`.
      params: where to start, in double precision.
      goal: ``(n,)`` a row is done once its bound is at most this.
      steps: number of iterations at most; 0 evaluates ``params`` as they are.

    Returns:
      the bounds, evaluated at the best parameters seen, and these: what a certificate
      stores is what was evaluated. After a step they are what single precision holds.
    """

    # The search needs no rigour: it runs in single precision, only its result is evaluated
    # in double precision.
    relaxed32, box32, rows32 = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), (relaxed, box, rows)
    )

    def loss(candidate: Params) -> tuple[Array, Array]:
        value = upper_bound(relaxed32, box32, rows32, candidate, splits).value
        return jnp.sum(value), value

    def advance(state: _State) -> _State:
        grads, value = jax.grad(loss, has_aux=True)(state.params)
        better = value < state.value
        best = _select(better, state.params, state.best)
        # Signs of freedom differ by orders of magnitude between rows: normalise by Adam.
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.mean, grads)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, state.square, grads)
        time = state.time + 1
        rate = LEARNING_RATE * DECAY ** (state.time / jnp.float32(steps))
        correction = jnp.sqrt(1 - 0.999**time) / (1 - 0.9**time)
        moved = jax.tree.map(
            lambda p, m, s: p - rate * correction * m / (jnp.sqrt(s) + 1e-20),
            state.params,
            mean,
            square,
        )
        moved = tuple(_project(p, s) for p, s in zip(moved, splits, strict=True))
        value = jnp.where(better, value, state.value)
        return _State(moved, mean, square, best, value, time)

    def unfinished(state: _State) -> Array:
        return (state.time < steps) & jnp.any(state.value > goal)

    start = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    zeros = jax.tree.map(jnp.zeros_like, start)
    infinite = jnp.full(rows.constant.shape, jnp.inf, jnp.float32)
    last = jax.lax.while_loop(
        unfinished,
        advance,
        _State(start, zeros, zeros, start, infinite, jnp.zeros((), jnp.float32)),
    )
    # Without a step, the parameters are evaluated in their own precision.
    stored = jax.tree.map(
        lambda best, given: jnp.where(steps > 0, best.astype(given.dtype), given), last.best, params
    )
    return upper_bound(relaxed, box, rows, stored, splits), stored


def _select(choose: Array, this: Params, other: Params) -> Params:
    return jax.tree.map(lambda a, b: jnp.where(choose[:, None], a, b), this, other)


def _project(params: Array, splits: Array) -> Array:
    """α into [0, 1], β to what is not negative."""
    return jnp.clip(params, 0.0, jnp.where(splits == 0, 1.0, jnp.inf))
