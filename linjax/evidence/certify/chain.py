"""Certifies a chain of layers over a box, site by site."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from linjax.chains.layers import Layers
from linjax.errors import EvidenceError
from linjax.evidence.bounds import SiteBounds, summary
from linjax.evidence.certify import interval, milp, site
from linjax.evidence.certify.crown import Relaxed, relax
from linjax.evidence.certify.interval import Interval
from linjax.evidence.certify.steps import Slopes, Steps, steps_of

Array = Any

LARGEST = 2.0**500
"""Values whose products float64 holds."""

METHODS: dict[str, tuple[site.Stage, ...]] = {
    "interval": (),
    "crown": (site.sample, site.crown),
    "alpha-crown": (site.sample, site.gradient, site.crown, site.alpha_crown),
    "milp": (milp.by_milp,),
    "auto": (
        site.sample,
        site.gradient,
        site.crown,
        site.alpha_crown,
        site.gradient_again,
        site.branching,
    ),
}


def certify_layers(
    layers: Layers,
    slopes: Sequence[Slopes],
    lower: Array,
    upper: Array,
    *,
    time_limit: float = float("inf"),
    data: Array | None = None,
    method: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> tuple[SiteBounds, ...]:
    """Bounds every unit of a chain over a box of inputs and decides what it can.

    Args:
      layers: the chain; kernels of any float dtype, taken as the exact numbers they are.
      slopes: ``(negative, positive)`` per site; scalars or ``(k,)``.
      lower, upper: ``(p,)`` the box, or scalars. Inputs that nothing reads may be unbounded.
      time_limit: seconds after which only interval bounds are computed.
      data: ``(n, p)`` inputs, clipped to the box, to look for witnesses among.
      method: the last stage to use: ``"interval"``, ``"crown"``, ``"alpha-crown"``, or
        ``"auto"`` for branch and bound. ``"milp"``: one mixed-integer program per unit and
        sign, to a solver's tolerance, which is no proof.
      progress: called with a line of text after each site.

    Returns:
      what is known at each site. An interrupt ends the search, not the run: what has been
      found is kept, and the rest is bounded by intervals.

    Raises:
      EvidenceError: if the box is empty, not finite, or so large that float64 doesn't hold what
        is computed in it, or shapes do not fit.
    """
    if method not in METHODS:
        raise EvidenceError(f"method: expected one of {', '.join(METHODS)}, found {method!r}")
    started = time.monotonic()
    deadline = started + time_limit
    chain = steps_of(layers, slopes)
    box = checked_box(lower, upper, chain)
    points = np.zeros((0, len(box.lower))) if data is None else _points(data, box)
    found: list[SiteBounds] = []
    relaxed: tuple[Relaxed, ...] = ()
    features = box
    with jax.enable_x64(True):
        for i, step in enumerate(chain.steps):
            with np.errstate(over="ignore", invalid="ignore"):
                z = interval.preactivation(step, features)
            _require_held(i, z)
            if i in chain.sites:
                units, last = chain.units[len(found)], len(found) + 1 == len(chain.sites)
                problem = site.Problem(chain.steps[: i + 1], units, relaxed, box, not last, points)
                bounds, interrupted = site.decide(problem, z, METHODS[method], deadline)
                deadline = -np.inf if interrupted else deadline
                found.append(bounds)
                z = tightened(z, bounds)
                if progress is not None:
                    names = [f"site {len(found) - 1}"]
                    progress(f"{time.monotonic() - started:.1f} s\n{summary((bounds,), names)}")
            relaxed += (relax(step, features, z),)
            features = interval.activation(step, z)
    return tuple(found)


def _require_held(index: int, z: Interval) -> None:
    """Refuses boxes of whose values float64 doesn't hold the products: nothing could be proven."""
    reach = np.max(z.magnitude, initial=0.0)
    if not reach <= LARGEST:
        raise EvidenceError(
            f"box: within it what layer {index} of the chain makes may be as large as {reach:.1e}, "
            f"and float64 holds products of numbers up to {LARGEST:.1e}; give a smaller box"
        )


def checked_box(lower: Array, upper: Array, chain: Steps) -> Interval:
    """Returns the box as float64 intervals; sides that nothing reads become [0, 0]."""
    kernel = chain.steps[0].kernel
    lower, upper = (np.asarray(side).astype(np.float64) for side in (lower, upper))
    for name, side in (("lower", lower), ("upper", upper)):
        if side.shape not in ((), kernel.shape[:1]):
            raise EvidenceError(f"{name}: expected shape ({kernel.shape[0]},), found {side.shape}")
    lower, upper = (np.broadcast_to(side, kernel.shape[:1]) for side in (lower, upper))
    require_ordered(lower, upper)
    unread = ~kernel.any(axis=1)
    open_ended = ~(np.isfinite(lower) & np.isfinite(upper)) & ~unread
    if open_ended.any():
        raise EvidenceError(
            f"box: input {int(np.argmax(open_ended))} is unbounded, and units read it;"
            " give it finite bounds"
        )
    return Interval(np.where(unread, 0.0, lower), np.where(unread, 0.0, upper))


def require_ordered(lower: Array, upper: Array) -> None:
    """Checks that a box isn't empty and that its sides are numbers.

    Raises:
      EvidenceError: naming the side, or the input.
    """
    for name, side in (("lower", lower), ("upper", upper)):
        if np.isnan(side).any():
            raise EvidenceError(f"{name}: expected numbers, found NaN")
    if (lower > upper).any():
        where = int(np.argmax(lower > upper))
        raise EvidenceError(
            f"box: lower {lower[where]} is above upper {upper[where]} at input {where}"
        )


def tightened(z: Interval, bounds: SiteBounds) -> Interval:
    """The step's interval with the site's units bounded by what was proven of them."""
    k = len(bounds.lower)
    return Interval(
        np.concatenate([bounds.lower, z.lower[k:]]), np.concatenate([bounds.upper, z.upper[k:]])
    )


def _points(data: Array, box: Interval) -> np.ndarray:
    data = np.asarray(data, np.float64)
    data = data.reshape(data.shape[0], -1)
    if data.shape[1] != len(box.lower):
        raise EvidenceError(f"data: expected {len(box.lower)} numbers a row, found {data.shape[1]}")
    return np.clip(data, box.lower, box.upper)
