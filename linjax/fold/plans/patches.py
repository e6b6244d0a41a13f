"""Kernels of several taps: refitted on all that they still read, neighbours of what has gone too.

A site is folded place by place: what goes is rebuilt from what stays at the same place. A
convolution of several taps reads more than that, ``v = [h_{p+o}]`` for all offsets o, and what one
tap lacks others make up for in part. With what still arrives ``f = v M`` and the kernel that
rebuilds place by place ``X₀ = R W``, the kernel is that of least squares on all taps together,
``X = X₀ + (Cov f + λ)⁻¹ Cov(f, v W − f X₀)``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linjax.dims.borders import padded, seen
from linjax.dims.network import Network
from linjax.dims.sizes import Sizes
from linjax.dims.span import Span, places
from linjax.evidence.moments import PointMoments
from linjax.evidence.points import Read, channels, in_patches, taps_of, window_of
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.problem import Frame, Moments, Site, frame
from linjax.fold.engine.regress import Seen, fitted, left, shrunk

Array = np.ndarray

MANY = 10.0
"""Samples for every feature from which shrinkage isn't compared."""
LITTLE = 1e-4
"""Weight of the diagonal where samples are many."""
EXACT = 1e-10
"""Share of the results' variance that is worth nothing to refit."""


class Part(NamedTuple):
    """A site among the channels that are read.

    Attributes:
      site: its place.
      point: the point of the site that is read.
      at: where its coordinates stand among the channels.
      data: share of what is read there that is no padding.
    """

    site: int
    point: int
    at: Array
    data: float


class Patches(NamedTuple):
    """What a kernel of several taps reads.

    Attributes:
      taps: how many.
      seen: ``(taps,)`` share of the reads that are no padding.
      moments: of ``(channels, taps)`` features, linear coordinates of sites beside theirs.
      own: ``(c,)`` channels that the kernel has rows for.
      parts: sites among the channels.
      others: sites among them whose coordinates can't be told.
    """

    taps: int
    seen: Array
    moments: Moments
    own: Array
    parts: tuple[Part, ...]
    others: frozenset[int]

    @property
    def rows(self) -> Array:
        """Features that the kernel has rows for."""
        return (self.own[:, None] * self.taps + np.arange(self.taps)).reshape(-1)


class Refit(NamedTuple):
    """A kernel that makes the most of what arrives.

    Attributes:
      kernel: ``(p, q)`` what has to become of it before its sites are folded.
      lacking: ``(q,)`` what its result lacks with that.
      mean, covariance: of what arrives once they are, rebuilt place by place: ``(p,)``, ``(p, p)``.
    """

    kernel: Array
    lacking: Array
    mean: Array
    covariance: Array


def patches_of(
    network: Network, sizes: Sizes, read: Read, evidence: PointMoments
) -> Patches | None:
    """What a kernel reads, where it reads several taps and evidence knows what is beside them."""
    if read.frame.op.name == "dot_general" or not in_patches(network, read):
        return None
    span = channels(network, read)
    if set(span.dims()) & set(sizes.beside):  # linear ones of an earlier fold have rows, too
        return None
    index = {site.dim: n for n, site in enumerate(network.foldable)}
    linear = {site.dim for site in network.foldable if site.linear}

    def size(dim: int) -> int:
        return int(sizes.kept[dim]) * (1 + (dim in linear))

    parts, others, own = [], set[int](), list[Array]()
    for dim in dict.fromkeys(span.dims()):
        at = places(span, dim, size)
        own.append(at[:, : int(sizes.kept[dim])].reshape(-1))
        if dim in index:
            site = network.foldable[index[dim]]
            if len(at) == 1 and not site.beside and read.value in site.points and _side(span):
                data = 1.0 - padded(network, site, read.value)
                parts.append(Part(index[dim], site.points.index(read.value), at[0], data))
            else:
                others.add(index[dim])
    window = window_of(network, read)
    taps = taps_of(read.frame, window)
    if evidence.mean.shape[-1] != span.now(size) * taps or not _side(span):
        return None
    order = read.frame.op.params["dimension_numbers"].rhs_spec
    share = np.broadcast_to(
        seen(network, network.kernels[read.op]),
        [w if n in order[2:] else 1 for n, w in enumerate(window)],
    )
    covariance = evidence.scatter / evidence.count[:, None, None, None]
    moments = Moments(evidence.count, evidence.mean, covariance)
    by_tap = share.transpose(order).reshape(-1)
    return Patches(
        taps, by_tap, moments, np.sort(np.concatenate(own)), tuple(parts), frozenset(others)
    )


def _side(span: Span) -> bool:
    """Whether parts of an axis stand side by side."""
    return not span.parts or (not span.flattened and all(map(_side, span.parts)))


def refitted(
    patches: Patches, kernel: Array, problems: Sequence[Site], choices: Sequence[Choice],
    points: Sequence[Sequence[int]],
) -> Refit | None:  # fmt: skip
    """A kernel refitted to what arrives once its sites are folded; None where none of them is.

    Args:
      patches: what it reads.
      kernel: ``(p, q)`` as it is.
      problems: the sites.
      choices: what they will keep, by points of the problem.
      points: by site, which of the problem's points each point of the site is.
    """
    arriving = _arriving(patches, problems, choices, points)
    if arriving is None:
        return None
    whole = _seen(patches, kernel, arriving, frame(patches.moments))
    prior = np.tensordot(arriving.decode, _by_tap(patches, kernel), 1).reshape(-1, kernel.shape[1])
    if left(whole, prior[None]).sum() <= EXACT * whole.variance.sum():
        found = prior
    elif whole.samples >= MANY * len(prior):
        found = shrunk(whole, prior[None], LITTLE)[0]
    else:
        folds = [f for f, count in enumerate(patches.moments.count) if count]
        parts = [_seen(patches, kernel, arriving, frame(patches.moments, [f])) for f in folds]
        found = fitted(parts, whole, prior[None])[0]
    return _in_place(patches, kernel, arriving, whole, found, prior)


class _Arriving(NamedTuple):
    """What arrives of channels, and how they are rebuilt: ``f = v mix``, ``v ≈ f decode + c``."""

    mix: Array
    decode: Array
    offset: Array


def _arriving(
    patches: Patches, problems: Sequence[Site], choices: Sequence[Choice],
    points: Sequence[Sequence[int]],
) -> _Arriving | None:  # fmt: skip
    """None where no site is folded, or one that can't be told."""
    changed = {n for n, choice in enumerate(choices) if choice.changes(problems[n].width)}
    folded = [part for part in patches.parts if part.site in changed]
    if not folded or changed & patches.others:
        return None
    if any(problems[part.site].kind not in ("bent", "straight") for part in folded):
        return None
    width, own = patches.moments.mean.shape[-1] // patches.taps, patches.own
    mine = np.concatenate([part.at for part in folded])
    rest = np.setdiff1d(own, mine)
    mix, decode = [np.eye(width)[:, rest]], [np.eye(width)[rest][:, own]]
    offset = np.zeros(width)
    for part in folded:
        choice, m = choices[part.site], problems[part.site].width
        at, point = part.at, points[part.site][part.point]
        own_mix = choice.mix[0]
        first = np.zeros((width, own_mix.shape[1]))
        first[at[: len(own_mix)]] = own_mix
        second = np.zeros((own_mix.shape[1], width))
        second[:, at[:m]] = choice.decode[point][0]
        if part.data > 0:
            offset[at[:m]] = choice.offset[point][0] / part.data  # see linjax.fold.shifts
        mix.append(first)
        decode.append(second[:, own])
    return _Arriving(np.concatenate(mix, 1), np.concatenate(decode), offset[own])


def _by_tap(patches: Patches, matrix: Array) -> Array:
    """Rows of features as channels and taps."""
    return matrix.reshape(-1, patches.taps, *matrix.shape[1:])


def _seen(patches: Patches, kernel: Array, arriving: _Arriving, data: Frame) -> Seen:
    """Moments of what arrives, and of what the kernel made of all that there was."""
    t = patches.taps
    across = np.tensordot(arriving.mix.T, _by_tap(patches, data.covariance[0]), 1)
    p = across.shape[0] * t
    across = across.reshape(p, -1)
    gram = np.tensordot(across.reshape(p, -1, t), arriving.mix, (1, 0)).swapaxes(1, 2)
    cross = across[:, patches.rows] @ kernel
    mean = np.tensordot(arriving.mix.T, _by_tap(patches, data.mean[0]), 1).reshape(-1)
    targets = data.mean[0][patches.rows] @ kernel
    own = data.covariance[0][np.ix_(patches.rows, patches.rows)]
    variance = np.sum(kernel * (own @ kernel), axis=0)
    gram = gram.reshape(p, p)
    return Seen(data.samples, mean[None], targets[None], gram[None], cross[None], variance[None])


def _in_place(
    patches: Patches, kernel: Array, arriving: _Arriving, seen: Seen, found: Array, prior: Array
) -> Refit:
    """The kernel whose rows, rebuilt place by place, are those that were found."""
    t, decode = patches.taps, arriving.decode
    back = np.linalg.pinv(decode)
    moved = np.tensordot(back, _by_tap(patches, found - prior), 1)
    new = kernel + moved.reshape(kernel.shape)
    mean = np.tensordot(decode.T, _by_tap(patches, seen.features[0]), 1)
    mean = (mean + arriving.offset[:, None] * patches.seen).reshape(-1)
    wide = np.tensordot(decode.T, seen.gram[0].reshape(len(decode), t, -1), 1)
    wide = wide.reshape(len(kernel), len(decode), t)
    covariance = np.tensordot(wide, decode, (1, 0)).swapaxes(1, 2).reshape(len(kernel), -1)
    return Refit(new, seen.targets[0] - mean @ new, mean, covariance)
