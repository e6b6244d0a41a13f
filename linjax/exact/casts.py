"""What casts do to numbers."""

from typing import Any

import jax.numpy as jnp


def cast_keeps(before: Any, after: Any) -> str:
    """What a cast does to numbers: ``"exact"``, ``"rounds"`` to nearest, or ``"changes"`` them.

    Rounding to eight bits and fewer counts as a change, as does a cast to integers that may not
    hold the number.
    """
    if before == after:
        return "exact"
    if not is_kind(before, jnp.number, jnp.bool_) or not is_kind(after, jnp.floating, jnp.integer):
        return "changes"
    if is_kind(before, jnp.bool_):
        return "exact"
    if is_kind(after, jnp.integer):
        if not is_kind(before, jnp.integer):
            return "changes"
        low, high = jnp.iinfo(before), jnp.iinfo(after)
        return "exact" if high.min <= low.min and low.max <= high.max else "changes"
    if is_kind(before, jnp.complexfloating):
        return "changes"
    to: Any = jnp.finfo(after)
    if is_kind(before, jnp.integer):
        exact = jnp.iinfo(before).bits <= min(to.nmant + 1, to.maxexp)
    else:
        have: Any = jnp.finfo(before)
        exact = to.nmant >= have.nmant and to.maxexp >= have.maxexp and to.minexp <= have.minexp
    return "exact" if exact else "rounds" if to.bits >= 16 else "changes"


def is_kind(dtype: Any, *kinds: Any) -> bool:
    """Whether a dtype is of one of JAX's abstract kinds."""
    return any(jnp.issubdtype(dtype, kind) for kind in kinds)
