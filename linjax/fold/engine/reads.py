"""What a site's makers are worth once it is folded."""

import numpy as np

from linjax.fold.engine.choose import Choice
from linjax.fold.engine.linalg import ROUNDING
from linjax.fold.engine.problem import Frame, Site, frame

Array = np.ndarray


def made_metric(site: Site, choice: Choice) -> Array:
    """Returns the metric of what a folded site's makers make: ``(n, k + r, k + r)``.

    An error δ of ``[z_kept, u]`` reaches a point through the linear coordinates and through
    every kept unit's slope. The slope's mean acts coherently, its variation unit by unit:
    with ``A = R Q Rᵀ`` and s the slopes, ``diag(s, 1) A diag(s, 1)`` and, for the units, the
    variance of h that is not the slope's, per variance of z, times A's diagonal. Where no
    linear sources are known, coordinates count as made without an activation.

    Args:
      site: the site.
      choice: its fold; decoders as they were chosen.
    """
    found = np.zeros((site.repeats, choice.decode[0].shape[1], choice.decode[0].shape[1]))
    for point, decode in zip(site.points, choice.decode, strict=True):
        worth = decode @ point.metric @ decode.swapaxes(1, 2)
        if site.sources:
            slope, energy = _slopes(site, choice, frame(point.moments))
            found += slope[:, :, None] * worth * slope[:, None, :]
            own = np.einsum("nii->ni", worth)
            np.einsum("nii->ni", found)[...] += energy * own
        else:
            found += worth
    return found


def _slopes(site: Site, choice: Choice, data: Frame) -> tuple[Array, Array]:
    """Slopes of the features that are made, 1 of linear ones, and the energy beside them."""
    m = site.width
    covariance = data.covariance
    h = np.einsum("nii->ni", covariance[:, :m, :m])
    z = np.einsum("nii->ni", covariance[:, m:, m:])
    zh = np.einsum("nii->ni", covariance[:, m:, :m])
    moves = z > ROUNDING * z.max(axis=1, keepdims=True, initial=0.0)
    inverse = np.divide(1.0, z, out=np.zeros_like(z), where=moves)
    slope = np.take_along_axis(zh * inverse, choice.kept, 1)
    energy = np.take_along_axis(h * inverse, choice.kept, 1) - slope**2
    linear = np.ones((len(slope), choice.linear.shape[2]))
    return (
        np.concatenate([slope, linear], axis=1),
        np.concatenate([np.maximum(energy, 0.0), 0.0 * linear], axis=1),
    )
