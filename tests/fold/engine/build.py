"""Sites made from data, for the tests of the engine."""

import numpy as np

from linjax.fold.engine.problem import Moments, Point, Site

Array = np.ndarray

KINDS = ("bent", "straight", "paired", "aligned")


def moments(rows: Array, folds: int = 2) -> Moments:
    """Moments of ``(N, w)`` or ``(N, n, w)`` rows."""
    rows = rows[:, None] if rows.ndim == 2 else rows
    parts = np.array_split(rows, folds)
    mean = np.stack([part.mean(0) for part in parts])
    covariance = np.stack(
        [
            np.einsum("bni,bnj->nij", part - own, part - own) / len(part)
            for part, own in zip(parts, mean, strict=True)
        ]
    )
    return Moments(np.array([float(len(part)) for part in parts]), mean, covariance)


def metric(rng: np.random.Generator, m: int, rank: int | None = None) -> Array:
    """A random ``(m, m)`` metric."""
    root = rng.normal(size=(m, m if rank is None else rank))
    return root @ root.T


class Layer:
    """A layer of relu units: inputs, kernel, pre-activations and activations."""

    def __init__(self, seed: int, m: int = 8, p: int = 5, rows: int = 400) -> None:
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.normal(size=(rows, p))
        self.kernel = self.rng.normal(size=(p, m))
        self.bias = 0.3 * self.rng.normal(size=m)

    @property
    def z(self) -> Array:
        return self.x @ self.kernel + self.bias

    @property
    def h(self) -> Array:
        return np.maximum(self.z, 0.0)

    @property
    def noise(self) -> Array:
        return (self.kernel.T * self.x.var(0)) @ self.kernel

    def site(self, q: Array | None = None, sources: bool = True, folds: int = 2) -> Site:
        """The layer's units as a site, read in the metric Q."""
        m = self.kernel.shape[1]
        rows = np.concatenate([self.h, self.z], 1) if sources else self.h
        q = metric(self.rng, m) if q is None else q
        point = Point(moments(rows, folds), q[None])
        noise = self.noise[None] if sources else None
        return Site("layer", m, 1, "bent", (point,), sources, noise)


def decoded(
    site: Site, choice, h: Array, z: Array | None, point: int = 0, repeat: int = 0
) -> Array:
    """The coordinates as a point rebuilds them."""
    features = h[:, choice.kept[repeat]]
    if choice.basis is not None:
        features = h @ choice.basis[repeat]
    if z is not None:
        features = np.concatenate([features, z @ choice.linear[repeat]], 1)
    return features @ choice.decode[point][repeat] + choice.offset[point][repeat]
