"""Verifies certificates again, from the weights alone and by other means than they were made.

Nothing here trusts how a bound was found. Interval bounds are recomputed in exact integer
arithmetic. A linear bound is any choice of coefficients: whatever the stored slopes and
multipliers are, the intercept that makes the line valid is the maximum of a piecewise
linear function, attained at the ends of the unit's interval or at zero. Rounding errors
of the back-substitution are bounded by γ_n times the magnitudes (Higham 2002, §3.1). Trees
of splits must cover the box, counted in integers. Witnesses are evaluated with running
error bounds, and exactly where these leave zero in.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from linjax.chains.layers import Layers
from linjax.evidence.bounds import Proofs, SiteBounds, Verdict
from linjax.evidence.certify.chain import checked_box, tightened
from linjax.evidence.certify.dyadic import Dyadic, preactivation_signs
from linjax.evidence.certify.interval import Interval, activation
from linjax.evidence.certify.steps import Slopes, Step, steps_of

Array = Any

ROUNDOFF = 2.0**-53
TINY = 2.0**-1022
# Rows re-evaluated at once, to bound memory.
ROWS = 1024


class SiteCheck(NamedTuple):
    """What could be verified of one site.

    Attributes:
      verdict: ``(k,)`` bool: the verdict holds (an undecided unit claims nothing).
      lower: ``(k,)`` bool: the lower bound holds.
      upper: ``(k,)`` bool: the upper bound holds.
    """

    verdict: Array
    lower: Array
    upper: Array

    @property
    def ok(self) -> bool:
        """Whether everything that is claimed holds."""
        return bool(self.verdict.all() and self.lower.all() and self.upper.all())


class _Known(NamedTuple):
    """A step, verified bounds of its pre-activations, and the magnitude of their terms."""

    step: Step
    z: Interval
    size: Array


def check_layers(
    layers: Layers,
    slopes: Sequence[Slopes],
    lower: Array,
    upper: Array,
    sites: tuple[SiteBounds, ...],
) -> tuple[SiteCheck, ...]:
    """Verifies all verdicts and bounds of a chain; see :func:`linjax.check_certificate`.

    Args:
      layers, slopes, lower, upper: what ``certify_layers`` was given.
      sites: what it returned.

    Raises:
      EvidenceError: if the box or the layers are not ones that can be certified.
    """
    chain = steps_of(layers, slopes)
    box = checked_box(lower, upper, chain)
    known: tuple[_Known, ...] = ()
    features = box
    checks: list[SiteCheck] = []
    for i, step in enumerate(chain.steps):
        z = _interval(step, features)
        if i in chain.sites:
            claim = sites[len(checks)]
            check = _check_site(chain.steps[: i + 1], known, box, features, claim)
            checks.append(check)
            # Only what has been verified may support what comes after.
            z = tightened(
                z,
                claim._replace(
                    lower=np.where(check.lower, claim.lower, z.lower[: len(claim.lower)]),
                    upper=np.where(check.upper, claim.upper, z.upper[: len(claim.upper)]),
                ),
            )
        size = features.magnitude @ np.abs(step.kernel) + np.abs(step.bias)
        known += (_Known(step, z, size * (1 + _gamma(len(features.lower) + 4)) + TINY),)
        features = activation(step, z)
    return tuple(checks)


def _check_site(
    steps: tuple[Step, ...],
    known: tuple[_Known, ...],
    box: Interval,
    features: Interval,
    claim: SiteBounds,
) -> SiteCheck:
    k = len(claim.lower)
    step = steps[-1]
    sides = []
    for sign, value in ((-1, -claim.lower), (1, claim.upper)):
        bounds = [_proven(known, box, step, p, sign, k) for p in (claim.proofs, claim.leaves)]
        proven = np.minimum(*bounds) <= value
        rest = np.flatnonzero(~proven)
        kernel, bias = sign * step.kernel[:, rest], sign * step.bias[rest]
        proven[rest] = _exceeds(kernel, bias, features, value[rest]) <= 0
        sides.append(proven)
    lower, upper = sides
    off = _witnessed(steps, box, claim, 0)
    on = _witnessed(steps, box, claim, 1)
    holds = {
        Verdict.UNDECIDED: np.ones(k, bool),
        Verdict.ACTIVE: lower & (claim.lower >= 0),
        Verdict.INACTIVE: upper & (claim.upper <= 0),
        Verdict.UNSTABLE: off & on,
    }
    verdict = np.select([claim.verdict == v for v in holds], list(holds.values()), False)
    return SiteCheck(verdict, lower, upper)


def _gamma(terms: int) -> float:
    return terms * ROUNDOFF / (1 - terms * ROUNDOFF) * (1 + 8 * ROUNDOFF)


def _interval(step: Step, features: Interval) -> Interval:
    """Interval bounds by midpoint and radius, rounded outward."""
    middle = features.lower / 2 + features.upper / 2
    radius = np.nextafter(np.maximum(features.upper - middle, middle - features.lower), np.inf)
    magnitude = np.abs(step.kernel)
    centre, spread = middle @ step.kernel + step.bias, radius @ magnitude
    size = np.abs(middle) @ magnitude + np.abs(step.bias) + spread
    terms = len(middle) + 4
    spread = spread + _gamma(terms) * size + terms * TINY
    return Interval(np.nextafter(centre - spread, -np.inf), np.nextafter(centre + spread, np.inf))


def _exceeds(kernel: Array, bias: Array, features: Interval, value: Array) -> np.ndarray:
    """Exact sign of (greatest ``v W + b`` over the features' box) minus ``value``."""
    if not kernel.size and not bias.size:
        return np.zeros(0, np.int8)
    extreme = np.where(kernel > 0, features.upper[:, None], features.lower[:, None])
    products = Dyadic.of(kernel) * Dyadic.of(extreme)
    total = Dyadic(products.integers.sum(axis=0), products.exponent)
    return (total + Dyadic.of(bias) + Dyadic.of(-value)).sign()


def _proven(
    known: tuple[_Known, ...], box: Interval, step: Step, proofs: Proofs, sign: int, k: int
) -> np.ndarray:
    """``(k,)`` upper bounds of ``sign · z`` that the proofs establish; inf without one."""
    rows = np.flatnonzero(proofs.sign == sign)
    value = np.full(k, np.inf)
    if not len(rows):
        return value
    unit = proofs.unit[rows]
    leaf = np.concatenate(
        [_evaluate(known, box, step, _rows(proofs, part), sign) for part in _parts(rows)]
    )
    for u in np.unique(unit[_covering(proofs, rows, unit)]):
        value[u] = leaf[unit == u].max()
    return value


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, -(-len(rows) // ROWS))


def _rows(proofs: Proofs, rows: np.ndarray) -> Proofs:
    params, splits = (tuple(a[rows] for a in part) for part in (proofs.params, proofs.splits))
    return Proofs(proofs.unit[rows], proofs.sign[rows], params, splits)


def _covering(proofs: Proofs, rows: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Whether each row belongs to a unit whose leaves cover the box.

    Leaves cover it if no two of them overlap and their shares, 2 to the power of minus the
    number of splits, sum to one.
    """
    covering = np.zeros(len(rows), bool)
    if not proofs.splits:
        return ~covering
    signs = np.concatenate([s[rows] for s in proofs.splits], axis=1).astype(np.float32)
    depth = np.count_nonzero(signs, axis=1)
    for u in np.unique(unit):
        here = np.flatnonzero(unit == u)
        deepest = int(depth[here].max())
        share = sum(1 << (deepest - int(d)) for d in depth[here])
        on, off = (signs[here] > 0).astype(np.float32), (signs[here] < 0).astype(np.float32)
        conflicts = on @ off.T
        apart = (conflicts + conflicts.T > 0) | np.eye(len(here), dtype=bool)
        covering[here] = share == 1 << deepest and apart.all()
    return covering


def _evaluate(
    known: tuple[_Known, ...], box: Interval, step: Step, proofs: Proofs, sign: int
) -> np.ndarray:
    """Re-evaluates rows of linear bounds by back-substitution; rounded upward."""
    weights = sign * step.kernel[:, proofs.unit].T
    constant = sign * step.bias[proofs.unit]
    error, terms = np.abs(constant), 8
    spread = np.zeros_like(constant)
    for (earlier, z, size), param, split in zip(
        known[::-1], proofs.params[::-1], proofs.splits[::-1], strict=True
    ):
        low: Array = np.where(split > 0, np.maximum(z.lower, 0.0), z.lower)
        high: Array = np.where(split < 0, np.minimum(z.upper, 0.0), z.upper)
        # A branch that contradicts the bounds is empty: any value at zero bounds it.
        low, high = np.minimum(low, np.maximum(high, 0.0)), np.maximum(high, np.minimum(low, 0.0))
        rise = weights * (earlier.positive - earlier.negative)
        slope = _slope(rise, low, high, split, param.astype(np.float64))
        above = [rise * np.maximum(end, 0.0) - slope * end for end in (low, high)]
        kink = np.where((low <= 0) & (high >= 0), 0.0, -np.inf)
        intercept = np.max([*above, kink], axis=0)
        back = slope + weights * earlier.negative
        reach = np.maximum(size, np.maximum(np.abs(low), np.abs(high)))
        steep = np.abs(earlier.negative) + np.abs(earlier.positive - earlier.negative)
        spread += np.sum((np.abs(weights) * steep + np.abs(slope) + np.abs(back)) * reach, axis=1)
        error += np.sum(np.abs(intercept), axis=1)
        constant = constant + intercept.sum(axis=1) + back @ earlier.bias
        weights = back @ earlier.kernel.T
        terms = max(terms, *earlier.kernel.shape) + 8
    up = weights > 0
    value = np.sum(weights * np.where(up, box.upper, box.lower), axis=1) + constant
    error += np.abs(weights) @ box.magnitude
    extent = sum(float(k.size.sum()) for k in known) + float(box.magnitude.sum()) + 1.0
    terms = max(terms, len(box.lower)) + 4 * len(known) + 16
    return value + _gamma(2 * terms) * (error + 2 * spread) + 8 * terms * TINY * extent


def _slope(rise: Array, low: Array, high: Array, split: Array, param: Array) -> np.ndarray:
    """The coefficients that the certificate names; any would be sound."""
    crossing = (low < 0) & (high > 0)
    chord = high / np.where(crossing, high - low, 1.0)
    alpha = np.where(crossing, np.where(rise > 0, chord, param), low >= 0)
    alpha = np.where(split == 0, alpha, split > 0)
    scale = np.abs(rise).sum(axis=1, keepdims=True) / max(rise.shape[1], 1)
    return rise * alpha + split * param * np.where(scale > 0, scale, 1.0)


def _witnessed(steps: tuple[Step, ...], box: Interval, claim: SiteBounds, side: int) -> np.ndarray:
    """``(k,)`` whether the unit's witness lies in the box and shows the sign."""
    index = claim.witness[:, side]
    shown = np.zeros(len(index), bool)
    unit = np.flatnonzero((index >= 0) & (index < len(claim.points)))
    points = claim.points[index[unit]]
    inside = ((points >= box.lower) & (points <= box.upper)).all(axis=1)
    unit, points = unit[inside], points[inside]
    sign = 1 if side == 1 else -1
    value, error = _value(steps, points, unit)
    shown[unit] = sign * value > error
    for i in np.flatnonzero(np.abs(value) <= error):
        exact = preactivation_signs(steps, points[i : i + 1], unit[i : i + 1])[0]
        shown[unit[i]] = exact == sign
    return shown


def _value(
    steps: tuple[Step, ...], points: np.ndarray, unit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pre-activations of the units, one at each point, with bounds of their errors."""
    value: Array = points
    error: Array = np.zeros_like(points)
    for step in steps[:-1]:
        z, slack = _affine(value @ step.kernel, value, error, np.abs(step.kernel), step.bias)
        slope = np.where(z < 0, step.negative, step.positive)
        steep = np.maximum(np.abs(step.negative), np.abs(step.positive))
        value = slope * z
        error = steep * slack * (1 + 8 * ROUNDOFF) + 2 * ROUNDOFF * np.abs(value) + TINY
    columns = steps[-1].kernel[:, unit].T
    size, bias = np.abs(columns), steps[-1].bias[unit]
    z = (value * columns).sum(axis=1) + bias
    terms = columns.shape[1] + 8
    slack = (error * size).sum(axis=1)
    grown = (np.abs(value) * size).sum(axis=1) + np.abs(bias)
    return z, (slack + _gamma(terms) * (grown + slack)) * (1 + _gamma(terms)) + terms * TINY


def _affine(
    product: Array, value: Array, error: Array, magnitude: Array, bias: Array
) -> tuple[np.ndarray, np.ndarray]:
    terms = magnitude.shape[0] + 8
    slack = error @ magnitude
    grown = np.abs(value) @ magnitude + np.abs(bias)
    bound = (slack + _gamma(terms) * (grown + slack)) * (1 + _gamma(terms)) + terms * TINY
    return product + bias, bound
