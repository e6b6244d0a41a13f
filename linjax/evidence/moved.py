"""How far parameters are from those that evidence was collected on, without keeping these."""

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.program import pytree
from linjax.program.pytree import join

Array = Any
BINS = 8
"""Sums with random signs that are kept of each leaf; they tell a distance to about a quarter."""
AT_ONCE = 1 << 18
"""Entries that are summed at once."""
MOVED = 0.01
"""Relative distance that is told; a cast to bfloat16 moves by a fifth of that."""


def sketch(params: Any) -> Array:
    """A few sums of every leaf: ``(leaves, 1 + BINS)``, NaN where a leaf isn't held here.

    The first is the norm; the others share the entries at random and give them random signs, those
    of each leaf always the same: differences of the sums estimate the norm of a difference
    (Charikar, Chen & Farach-Colton 2002; Weinberger et al. 2009).
    """
    return np.array([_known(leaf) for _, leaf in sorted(pytree.flatten(params).items())])


_sketched: dict[int, tuple[weakref.ref[Any], list[float]]] = {}
"""Sums of arrays that can't change, by identity, for as long as they are there: a sweep of folds
asks for those of the same parameters again and again."""


def _known(leaf: Any) -> list[float]:
    if not isinstance(leaf, jax.Array):
        return _sums(leaf)
    key = id(leaf)
    known = _sketched.get(key)
    if known is None or known[0]() is not leaf:
        known = (weakref.ref(leaf, lambda own: _forget(key, own)), _sums(leaf))
        _sketched[key] = known
    return known[1]


def _forget(key: int, own: Any) -> None:
    if key in _sketched and _sketched[key][0] is own:
        del _sketched[key]


def _sums(leaf: Any) -> list[float]:
    here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
    if not here or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return [np.nan] * (1 + BINS)
    value = np.asarray(leaf).ravel()
    rng, norm, sums = np.random.default_rng(len(value)), 0.0, np.zeros(2 * BINS)
    for start in range(0, len(value), AT_ONCE):
        part = value[start : start + AT_ONCE].astype(np.float64)
        norm += float(part @ part)
        place = np.frombuffer(rng.bytes(len(part)), np.uint8) % (2 * BINS)
        sums += np.bincount(place, part, minlength=2 * BINS)
    return [norm**0.5, *(sums[:BINS] - sums[BINS:]).tolist()]


def moved(params: Any, then: Array) -> str:
    """Says how far parameters have moved from those of a sketch; empty if they haven't."""
    if not len(then):
        return ""
    paths, share = sorted(pytree.flatten(params)), _shares(sketch(params), then)
    worst = int(np.argmax(share))
    if share[worst] < MOVED:
        return ""
    return (
        f"parameters have moved since the evidence was collected, {join(paths[worst])} most, by "
        f"about {share[worst]:.2g} of its norm: predictions are of those before; collect again "
        "if it is more than you meant"
    )


def differ(one: Array, other: Array) -> bool:
    """Whether two sketches are of parameters that have moved from each other."""
    return len(one) > 0 and len(one) == len(other) and bool(np.max(_shares(one, other)) >= MOVED)


def _shares(now: Array, then: Array) -> Array:
    """By leaf, how far it has moved, as a share of its norm."""
    apart = np.sqrt(np.sum((now[:, 1:] - then[:, 1:]) ** 2, axis=1))
    scale = np.maximum(then[:, 0], now[:, 0])
    return np.nan_to_num(apart / np.where(scale > 0, scale, 1.0))
