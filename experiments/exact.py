"""How many units of a trained network are provably linear for every input in a box."""

import time
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

import linjax
from experiments.methods import Subject
from experiments.models import Params
from linjax import penalties

VERDICTS = ("undecided", "active", "inactive", "unstable")
"""By number, see :class:`linjax.Bounds`."""
SAMPLE = 6
LIMIT = 10.0  # seconds a program at most: a time is a lower bound where it is hit


def proven(subject: Subject, programs: bool = False) -> dict[str, float]:
    """Counts units whose activation is one affine function on the subject's box.

    Returns:
      ``static``, see :func:`static`; by verdict how many are proven to be always
      ``active``, always ``inactive``, ``unstable``, or are left ``undecided``; whether the
      certificates are ``verified``; seconds ``certify`` and ``check``; with ``programs`` seconds of
      one ``program``, see :func:`one_program`, and the ``ratio`` of one for each unit behind the
      first layer to certifying.
    """
    start = time.perf_counter()
    bounds = subject.bounds
    certified = time.perf_counter()
    verified = linjax.check_certificate(subject.net, subject.params, bounds).ok
    checked = time.perf_counter()
    verdicts = np.concatenate([site.verdict for site in bounds.sites])
    found: dict[str, float] = {}
    if isinstance(subject.params, dict) and "layers" in subject.params:
        found["static"] = static(subject.params, np.asarray(subject.box[0]))
    found |= {name: int(np.sum(verdicts == i)) for i, name in enumerate(VERDICTS)}
    seconds = certified - start
    found |= {"verified": int(verified), "certify": seconds, "check": checked - certified}
    if programs:
        found["program"] = one_program(subject.params, np.random.default_rng(0))
        deeper = len(verdicts) - len(bounds.sites[0].verdict)
        found["ratio"] = found["program"] * deeper / seconds
    return found


def static(params: Params, lower: np.ndarray) -> int:
    """Counts the units of dense ReLU layers that the weights' signs show to be always on.

    Such a unit reads features that are never negative, by weights and a bias that aren't.

    References:
      Dobler and Lemmerich, 2025, arXiv 2506.21146.
    """
    total, positive = 0, bool(np.all(lower >= 0))
    for i in range(len(params["layers"]) - 1):
        kernel, bias = (np.asarray(params["layers"][i][name]) for name in ("kernel", "bias"))
        if positive:
            total += int(np.sum((kernel >= 0).all(axis=0) & (bias >= 0)))
        positive = True  # what a ReLU gives never is negative
    return total


def one_program(params: Params, rng: np.random.Generator) -> float:
    """Mean seconds of a mixed-integer program for a unit of the second layer, on [0, 1].

    The programs are those of Serra, Kumar and Ramalingam (2020, arXiv 2001.00218): the greatest
    pre-activation, of a sample of units and signs, with an integer for each unit of the first
    layer whose sign isn't known from intervals; solved by HiGHS.
    """
    first, second = (
        [np.asarray(params["layers"][i][name], np.float64) for name in ("kernel", "bias")]
        for i in (0, 1)
    )
    (w, b), (v, c) = first, second
    low, high = b + np.minimum(w, 0).sum(0), b + np.maximum(w, 0).sum(0)
    least, most = penalties.interval_bounds(v, c, np.maximum(low, 0), np.maximum(high, 0))
    crossing = np.flatnonzero((least < 0) & (most > 0))
    units = rng.choice(crossing if len(crossing) else np.arange(len(c)), SAMPLE)
    start = time.perf_counter()
    for unit, sign in zip(units, rng.choice([-1.0, 1.0], SAMPLE), strict=True):
        maximise(w, b, sign * v[:, unit], low, high)
    return (time.perf_counter() - start) / SAMPLE


def maximise(w: np.ndarray, b: np.ndarray, row: np.ndarray, low: Any, high: Any) -> float:
    """The greatest ``row · relu(x w + b)`` over x in [0, 1], ``low ≤ x w + b ≤ high`` being known.

    Variables are x, h and a in {0, 1}: h ≥ xw + b, h ≤ xw + b − low (1 − a), h ≤ high a, h ≥ 0.
    """
    p, k = w.shape
    eye, none = np.eye(k), np.zeros((k, k))
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    rows = [
        LinearConstraint(np.hstack([-w.T, eye, none]), lb=b),
        LinearConstraint(np.hstack([-w.T, eye, -np.diag(low)]), ub=b - low),
        LinearConstraint(np.hstack([np.zeros((k, p)), eye, -np.diag(high)]), ub=0),
    ]
    found = milp(
        np.concatenate([np.zeros(p), -row, np.zeros(k)]),
        integrality=np.concatenate([np.zeros(p + k), np.ones(k)]),
        bounds=Bounds(0, np.concatenate([np.ones(p), high, np.ones(k)])),
        constraints=rows,
        options={"time_limit": LIMIT},
    )
    return float("nan") if found.fun is None else -float(found.fun)
