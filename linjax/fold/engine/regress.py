"""Kernels as least-squares solutions of moments, shrunk towards the ones that are there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.fold.engine.linalg import solve
from linjax.fold.engine.sharing import at_once
from linjax.fold.hasty import jit_hastily

Array = Any

RIDGES = (1e-6, 1e-4, 1e-2, 0.3)
"""Weights of the diagonal that are compared on held-out rows."""


class Seen(NamedTuple):
    """Moments of features and targets on some rows, of every repeat.

    Attributes:
      samples: how many.
      features: ``(n, p)`` means.
      targets: ``(n, q)`` means.
      gram: ``(n, p, p)`` covariance of the features.
      cross: ``(n, p, q)`` covariance of features and targets.
      variance: ``(n, q)`` of the targets.
    """

    samples: float
    features: Array
    targets: Array
    gram: Array
    cross: Array
    variance: Array


def seen(features: Array, targets: Array) -> Seen:
    """Gathers moments of ``(n, samples, p)`` features and ``(n, samples, q)`` targets."""
    found = _moments(features, targets)
    return Seen(float(features.shape[1]), *(np.asarray(x, np.float64) for x in found))


@jit_hastily
def _moments(features: Array, targets: Array) -> tuple[Array, ...]:
    f, t = features.astype(jnp.float32), targets.astype(jnp.float32)
    means, count = (jnp.mean(f, axis=1), jnp.mean(t, axis=1)), f.shape[1]
    f, t = f - means[0][:, None], t - means[1][:, None]
    turned = f.swapaxes(1, 2)
    gram = jnp.matmul(turned, f, precision="highest") / count
    cross = jnp.matmul(turned, t, precision="highest") / count
    return (*means, gram, cross, jnp.mean(t * t, axis=1))


def pooled(parts: Sequence[Seen]) -> Seen:
    """The moments of several sets of rows as one."""
    samples = sum(part.samples for part in parts)
    shares = [part.samples / samples for part in parts]

    def mean(arrays: Any) -> Array:
        return sum(share * x for share, x in zip(shares, arrays, strict=True))

    features, targets = mean(p.features for p in parts), mean(p.targets for p in parts)
    apart = [p._replace(features=p.features - features, targets=p.targets - targets) for p in parts]
    return Seen(
        samples,
        features,
        targets,
        mean(p.gram + p.features[..., :, None] * p.features[..., None, :] for p in apart),
        mean(p.cross + p.features[..., :, None] * p.targets[..., None, :] for p in apart),
        mean(p.variance + p.targets**2 for p in apart),
    )


def fitted(parts: Sequence[Seen], whole: Seen, prior: Array) -> Array:
    """Returns the kernel of the least error on the rows, shrunk as held-out rows ask for.

    Args:
      parts: moments by fold of the rows.
      whole: the same of all rows.
      prior: ``(n, p, q)`` the kernel that it is shrunk to; itself where no shrinkage makes
        up for what is fitted by chance.
    """
    if len(parts) < 2:
        return shrunk(parts[0], prior, RIDGES[-1])
    pairs = ((parts[0], parts[1]), (parts[1], parts[0]))

    def held_out(ridge: float) -> float:
        return sum(_error(test, shrunk(train, prior, ridge)) for train, test in pairs)

    alone = sum(_error(test, prior) for _, test in pairs)
    cost = 2.0 * prior.shape[0] * prior.shape[1] ** 3
    errors = [alone, *at_once(held_out, RIDGES, [cost] * len(RIDGES))]
    best = int(np.argmin(errors))
    return shrunk(whole, prior, RIDGES[best - 1]) if best else prior


def shrunk(own: Seen, prior: Array, ridge: float) -> Array:
    """Returns the kernel of the least error, shrunk to another by a weight of the diagonal."""
    found = []
    for gram, cross, before in zip(own.gram, own.cross, prior, strict=True):
        held = gram + ridge * np.diag(np.diag(gram))
        found.append(before + solve(held, cross - gram @ before))
    return np.stack(found)


def _error(own: Seen, kernel: Array) -> float:
    """The error of a kernel with the best bias, relative to the targets' variances."""
    return float(np.sum(left(own, kernel) / np.maximum(own.variance, 1e-30)))


def left(own: Seen, kernel: Array) -> Array:
    """What a kernel with the best bias leaves of the targets' variances, ``(n, q)``."""
    change = np.sum(kernel * (own.gram @ kernel - 2.0 * own.cross), axis=1)
    return np.asarray(own.variance + change)
