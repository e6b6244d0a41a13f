"""How far a network's outputs are from the original's, in the output metric.

For logits the divergence is ``KL(p ‖ p') + ε/2 ‖centred (y' − y)‖²`` with p, p' the softmax of
the original's outputs y and of y', and the metric ``F = diag(p) − p pᵀ + ε (I − 1 1ᵀ / C)``. The
first part is blind where the original is certain, as it often is on the rows that it was
trained on; the second sees there, too.

That is what refits go by. Evidence, which tells what a fold may lose, has the first part's metric,
at less certain outputs (:func:`tempered`): a fold isn't infinitesimal, and what it loses shrinks
logits towards their mean. A class that is told from all others with certainty on every row has a
derivative of nearly zero, and would be given up whole; and of few rows two or three uncertain ones
would hold the whole metric. Language models are uncertain at many positions, and lose by it: where
a row has many outputs they are taken as they are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.evidence.metric import is_logits
from linjax.evidence.signs import Seed, signs

Array = Any

LOGITS = 1e-3
"""Weight ε of the squared error of centred logits."""

CERTAIN = 6.0
"""Log-odds that those of a row's likeliest class stay below where folds are priced."""


def floating(outputs: Any) -> list[Array]:
    """The outputs that errors are measured of."""
    return [x for x in jax.tree.leaves(outputs) if jnp.issubdtype(x.dtype, jnp.floating)]


def centred(leaf: Array) -> Array:
    """Logits less their mean over the classes, which no softmax sees."""
    return leaf - jnp.mean(leaf, axis=-1, keepdims=True)


def divergence(outputs: Any, teacher: Any, metric: str) -> Array:
    """Returns the divergence from the original's outputs, summed over a batch.

    For a regression it is ``‖y' − y‖² / 2``.
    """
    total = jnp.zeros((), jnp.float32)
    for student, original in zip(floating(outputs), floating(teacher), strict=True):
        student, original = student.astype(jnp.float32), original.astype(jnp.float32)
        difference = student - original
        if is_logits(original, metric):
            p, q = jax.nn.log_softmax(original), jax.nn.log_softmax(student)
            total += jnp.sum(jnp.exp(p) * (p - q))
            total += LOGITS * jnp.sum(centred(difference) ** 2) / 2
        else:
            total += jnp.sum(difference**2) / 2
    return total


def curvature(outputs: Any, tangent: Any, metric: str) -> Any:
    """Returns the divergence's Gauss–Newton curvature at the outputs times a tangent: ``F t``."""

    def weigh(y: Array, t: Array) -> Array:
        if not is_logits(y, metric):
            return t
        p = jax.nn.softmax(y.astype(jnp.promote_types(y.dtype, jnp.float32))).astype(t.dtype)
        return p * t - p * jnp.sum(p * t, axis=-1, keepdims=True) + LOGITS * centred(t)

    return jax.tree.map(weigh, outputs, tangent)


def tempered(outputs: Array, metric: str) -> Array:
    """Returns the outputs that the metric of evidence is taken at: rows' logits, less certain.

    A row's logits are divided by ``1 + max(o, 0) / 6``, with o the log-odds of its likeliest class.

    >>> tempered(jnp.array([[6.0, 0.0], [0.0, 0.0]]), "softmax").tolist()
    [[3.0, 0.0], [0.0, 0.0]]
    """
    if outputs.ndim != 2 or not is_logits(outputs, metric):
        return outputs
    y = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    first = jax.nn.one_hot(jnp.argmax(y, axis=-1), y.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(first, -jnp.inf, y), axis=-1, keepdims=True)
    odds = jnp.max(y, axis=-1, keepdims=True) - others
    return (y / (1 + jnp.maximum(odds, 0) / CERTAIN)).astype(outputs.dtype)


def root(outputs: Array, own: Array, metric: str) -> Array:
    """Returns ``B s``: ``B Bᵀ`` is the metric of logits but for its small part, or the identity."""
    if not is_logits(outputs, metric):
        return own
    wide = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    p = jax.nn.softmax(wide, axis=-1).astype(outputs.dtype)
    half = jnp.sqrt(p)  # B = diag(√p) − p √pᵀ
    return half * own - p * jnp.sum(half * own, axis=-1, keepdims=True)


def directions(outputs: Any, seed: Seed, metric: str) -> Any:
    """Returns a random direction of the outputs, whose covariance is the metric F."""

    def draw(y: Array, n: int) -> Array:
        if not jnp.issubdtype(y.dtype, jnp.floating):
            return np.zeros(y.shape, jax.dtypes.float0)
        own, others = signs((*seed, n), (2, *y.shape), y.dtype)
        found = root(y, own, metric)
        return found + LOGITS**0.5 * centred(others) if is_logits(y, metric) else found

    leaves, tree = jax.tree.flatten(outputs)
    return jax.tree.unflatten(tree, list(map(draw, leaves, range(len(leaves)))))
