"""Lower ranks for attention's values: what they cost, and how to make them.

The features of head h that its output kernel reads, ``f_h = A_h (x V_h + b_h)``, are replaced by
``f_h U_h``, U_h being the directions that say most about the result in the output metric,
orthonormal in the features' covariance: ``C_h^{-1/2}`` times the left singular vectors of
``C_h^{1/2} O_h G^{1/2}``. Where several heads read the same values, C_h is the sum of their
features' covariances C_i, and ``C_h^{-1/2} C_i O_i G^{1/2}`` stand side by side. The value
kernel becomes ``V_h U_h``, exactly, since attention weights act on whole positions; the output
kernels of all heads are refitted together.

Reference: Michel, Levy and Neubig, Are sixteen heads really better than one?, 2019, arXiv
1905.10650, on how little of most heads is needed.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy

from linjax.evidence.moments import Moments
from linjax.evidence.stats import Stats
from linjax.fold.channels.surface import nested
from linjax.fold.least_squares.budget import Prices, Shape, path
from linjax.fold.least_squares.directions import solve
from linjax.fold.least_squares.features import Features, Frame, frame
from linjax.fold.least_squares.plan import Curve
from linjax.fold.least_squares.surface import leading, metric_root, principal
from linjax.graph import pytree
from linjax.graph.count import count
from linjax.graph.heads_run import rank
from linjax.graph.maps import Path
from linjax.graph.structure import HeadSite

Array = np.ndarray

NEVER = 1e30
"""The error of a head without features, which isn't asked for."""


class Heads(NamedTuple):
    """One path of values, read.

    Attributes:
      site: the path.
      value: ``(inputs, heads, width)``.
      value_bias: ``(heads, width)``, None without one.
      kernel: ``(heads, repeats, width, outputs)``.
      moments: of the features that the output kernel reads.
    """

    site: HeadSite
    value: Array
    value_bias: Array | None
    kernel: Array
    moments: Moments

    @property
    def width(self) -> int:
        """Features of each head."""
        return self.value.shape[2]


def read(flat: pytree.Flat, stats: Stats) -> tuple[Heads, ...]:
    """Reads the paths of a network."""

    def host(path: tuple[str, ...], *shape: int) -> Array:
        return np.asarray(flat[path]).astype(np.float64).reshape(shape)

    found = []
    for site, moments in zip(stats.graph.heads, stats.heads, strict=False):
        h, w = site.heads, rank(site, flat)
        has_bias = site.value_bias is not None
        found.append(
            Heads(
                site,
                host(site.value, site.inputs, h, w),
                host(site.value_bias, h, w) if has_bias else None,
                host(site.kernel, h, site.repeats, w, site.outputs),
                moments,
            )
        )
    return tuple(found)


def _data(heads: Heads, folds: list[int] | None, ridge: float) -> Frame:
    """Moments; about zero instead of the mean where no bias could take up a shift."""
    data = frame(heads.moments, folds, ridge)
    if heads.site.bias is not None:
        return data
    whole = data.covariance + np.outer(data.mean, data.mean)
    return Frame(data.samples, np.zeros_like(data.mean), whole)


def _directions(heads: Heads, data: Frame) -> Array:
    """Directions of all heads, the most useful first: ``(heads, width, width)``."""
    n, w = heads.site.readers, heads.width
    root = metric_root(heads.moments.sensitivity[0])
    own = data.covariance.reshape(n, w, n, w)[np.arange(n), :, np.arange(n)]
    found = np.zeros((heads.site.heads, w, w))
    for head, each in enumerate(own.reshape(-1, heads.site.repeats, w, w)):
        covariance = each.sum(0)
        values, vectors = scipy.linalg.eigh((covariance + covariance.T) / 2)
        solid = np.maximum(values, 1e-10 * max(values.max(initial=0.0), np.finfo(float).tiny))
        inverse = vectors / np.sqrt(solid)
        left, _, _ = np.linalg.svd(np.hstack(inverse.T @ each @ heads.kernel[head] @ root))
        found[head] = inverse @ left
    return found


def _features(heads: Heads, directions: Array, width: int) -> Features:
    """The first so many directions of every head as features, the most useful of all first."""
    directions = np.repeat(directions, heads.site.repeats, axis=0)
    h, w, _ = directions.shape
    matrix = np.zeros((h * w, width * h))
    for k, head in itertools.product(range(width), range(h)):
        matrix[head * w : (head + 1) * w, k * h + head] = directions[head, :, k]
    return Features(np.arange(h * w), matrix)


def _result(heads: Heads) -> Features:
    """What the output kernel makes of the features."""
    rows = heads.site.readers * heads.width
    return Features(np.arange(rows), heads.kernel.reshape(rows, -1))


def errors(heads: Heads, ridge: float) -> Array:
    """Returns the error of every rank, ``(width + 1,)``, on rows that nothing was fitted to."""
    folds = [f for f, n in enumerate(heads.moments.count) if n > 0]
    train = _data(heads, folds[:-1] or folds, ridge)
    test = _data(heads, folds[-1:], 0.0)
    weighted = _result(heads) @ metric_root(heads.moments.sensitivity[0])
    target = weighted @ leading(*principal(train, weighted))
    features = _features(heads, _directions(heads, train), heads.width)
    found = nested(train, test, features, target)[:: heads.site.readers]
    found = np.maximum(np.minimum.accumulate(found), 0.0)
    found[-1] = 0.0
    return found


def prices(heads: Heads, ridge: float) -> Prices:
    """Returns what ranks cost, in the form of a chain's prices.

    As if one layer of ``rank`` units stood between ``heads · inputs`` features and
    ``readers · outputs`` results; the biases of the latter don't exist, see :func:`surplus`.
    """
    h, w = heads.site.heads, heads.width
    biases = h if heads.value_bias is not None else 0
    surface = errors(heads, ridge)[:, None]
    surface[0] = NEVER
    shape = Shape((0, 0), (w, heads.site.readers * heads.site.outputs), (0, 0))
    reads = h * heads.site.inputs + biases - 1
    return Prices(reads, shape, (1, 1), (surface,), (np.zeros(1), np.zeros(1)), 0.0)


def surplus(heads: Sequence[Heads]) -> int:
    """Parameters that the prices count and that don't exist."""
    return sum(one.site.readers * one.site.outputs for one in heads)


def with_heads(
    found: Sequence[Curve], heads: Sequence[Heads], params: pytree.Flat
) -> tuple[Curve, ...]:
    """Returns curves on which the ranks of attention's values share the budget with chains."""
    if not heads:
        return tuple(found)
    paths = {p for one in heads for p in (one.site.value, one.site.value_bias, one.site.kernel)}
    own = count([leaf for path_, leaf in params.items() if path_ in paths])
    result = []
    for curve in found:
        priced = (*curve.priced, *(prices(one, curve.ridge) for one in heads))
        fixed = curve.fixed - own - surplus(heads)
        steps = itertools.takewhile(
            lambda step: all(_valid(s) for s in step.shapes[-len(heads) :]), path(priced, fixed)
        )
        result.append(curve._replace(priced=priced, steps=tuple(steps), fixed=fixed))
    return tuple(result)


def _valid(shape: Shape) -> bool:
    """Whether a shape is one of heads: some features, all of them on the way."""
    return shape.units[0] > 0 and shape.linears[0] == 0 and not any(shape.necks)


def folded(
    flat: pytree.Flat, heads: Sequence[Heads], shapes: Sequence[Shape], ridge: float
) -> pytree.Flat:
    """Returns the flat pytree with attention's values at given ranks.

    Args:
      flat: the network's parameters.
      heads: the paths, with moments.
      shapes: what a plan says of each.
      ridge: shrinkage of the refits.
    """
    flat = dict(flat)
    for one, shape in zip(heads, shapes, strict=True):
        width = min(max(shape.units[0], 1), one.width)
        if width == one.width:
            continue
        site, data = one.site, _data(one, None, ridge)
        directions = _directions(one, data)[:, :, :width]
        f, z = _features(one, directions, width), _result(one)
        kernel = solve(data.within(f), data.between(f, z))
        shift = data.mean_of(z) - data.mean_of(f) @ kernel
        by_head = kernel.reshape(width, site.readers, -1).swapaxes(0, 1)
        _put(flat, site.value, np.einsum("phw,hwr->phr", one.value, directions), (site.inputs, -1))
        _put(flat, site.kernel, by_head, (-1, site.outputs))
        if one.value_bias is not None:
            _put(flat, site.value_bias, np.einsum("hw,hwr->hr", one.value_bias, directions), (-1,))
        if site.bias is not None:
            bias = np.asarray(flat[site.bias]).astype(np.float64)
            _put(flat, site.bias, bias + shift, (-1,))
    return flat


def _put(flat: pytree.Flat, path_: Path, value: Array, joined: tuple[int, ...]) -> None:
    """Writes an array in the leaf's layout, heads and features as one axis where they were."""
    old = flat[path_]
    shape = value.shape if jnp.ndim(old) == value.ndim else joined
    flat[path_] = jnp.asarray(value.reshape(shape), old.dtype)
