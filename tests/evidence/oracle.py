"""Exact extremes of the pre-activations of small networks, by brute force."""

import itertools
from fractions import Fraction

import numpy as np

from linjax.chains.layers import Layer, Layers


def fractions(array) -> list:
    """The floats of an array as fractions, nested as the array is."""
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, np.float64))


def activate(z: np.ndarray, slopes) -> np.ndarray:
    """Two-slope activation of fractions."""
    negative, positive = (fractions(np.broadcast_to(s, z.shape[-1:])) for s in slopes)
    return np.where(z < 0, negative * z, positive * z)


def features(layer: Layer, v: np.ndarray, slopes) -> tuple[np.ndarray, np.ndarray]:
    """Pre-activations and features of a layer, in fractions."""
    if layer.down is not None:
        v = v.dot(fractions(layer.down))
    z = v.dot(fractions(layer.kernel)) + fractions(layer.bias)
    parts = [activate(z, slopes)]
    if layer.linear is not None:
        parts.append(v.dot(fractions(layer.linear)))
    if layer.residual:
        parts.append(v)
    return z, np.concatenate(parts, axis=1)


def extremes_on_interval(layers: Layers, slopes, lower: float, upper: float) -> list:
    """Least and greatest pre-activation of every unit, for one input in an interval.

    Between the zeros of the pre-activations seen so far everything is affine: the extremes
    are at these zeros and at the ends.
    """
    points = [Fraction(lower), Fraction(upper)]
    found = []
    for depth in range(len(layers) - 1):
        v = np.array(points, object)[:, None]
        for layer, pair in zip(layers[: depth + 1], slopes, strict=False):
            z, v = features(layer, v, pair)
        found.append((z.min(axis=0), z.max(axis=0)))
        zeros = set(points)
        for left, right, a, b in zip(points, points[1:], z, z[1:], strict=False):
            zeros |= {left + (right - left) * p / (p - q) for p, q in np.c_[a, b] if p * q < 0}
        points = sorted(zeros)
    return found


def extremes_on_square(layers: Layers, slopes, lower, upper) -> list:
    """The same for two inputs and at most two sites: extremes are at crossings of lines."""
    kernel, bias = fractions(layers[0].kernel), fractions(layers[0].bias)
    low, high = fractions(lower), fractions(upper)
    lines = [(*kernel[:, j], -bias[j]) for j in range(len(bias))]
    lines += [(1, 0, low[0]), (1, 0, high[0]), (0, 1, low[1]), (0, 1, high[1])]
    points = []
    for (a, b, c), (d, e, f) in itertools.combinations(lines, 2):
        determinant = a * e - b * d
        if determinant:
            x, y = (c * e - b * f) / determinant, (a * f - c * d) / determinant
            if low[0] <= x <= high[0] and low[1] <= y <= high[1]:
                points.append((x, y))
    v, found = np.array(points, object), []
    for layer, pair in zip(layers[:-1], slopes, strict=True):
        z, v = features(layer, v, pair)
        found.append((z.min(axis=0), z.max(axis=0)))
    return found


def extremes_by_patterns(layers: Layers, lower, upper) -> list:
    """The same for ReLU layers of any inputs: on a pattern of signs extremes are at corners."""
    inputs = len(lower)
    found = []
    box = (
        np.concatenate([np.eye(inputs), -np.eye(inputs)]),
        np.concatenate([upper, np.negative(lower)]),
    )
    regions = [(np.eye(inputs), np.zeros(inputs), *box, _corners(*box))]
    for depth, layer in enumerate(layers[:-1]):
        kernel, bias = np.float64(layer.kernel), np.float64(layer.bias)
        low, high = np.full(len(bias), np.inf), np.full(len(bias), -np.inf)
        following = []
        for linear, offset, rows, limits, corners in regions:
            z, shift = linear @ kernel, offset @ kernel + bias
            values = corners @ z + shift
            low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
            if depth + 2 == len(layers):
                continue  # nothing is behind the last site
            for signs in itertools.product((-1.0, 1.0), repeat=len(bias)):
                signs = np.array(signs)
                more = np.concatenate([rows, (-signs * z).T])
                bound = np.concatenate([limits, signs * shift])
                inside = _corners(more, bound)
                if len(inside):
                    on = signs > 0
                    following.append((z * on, shift * on, more, bound, inside))
        regions = following
        found.append((low, high))
    return found


def _corners(rows: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Corners of the polytope ``rows x <= limits``: every choice of rows that cross in it."""
    choice = np.array(list(itertools.combinations(range(len(rows)), rows.shape[1])))
    matrices = rows[choice]
    regular = np.abs(np.linalg.det(matrices)) > 1e-12
    points = np.linalg.solve(matrices[regular], limits[choice[regular]][..., None])[..., 0]
    return points[(points @ rows.T <= limits + 1e-9).all(axis=1)]
