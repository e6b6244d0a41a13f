"""How many units of a trained network are provably linear for every input in a box."""

import time

import numpy as np

import linjax
from experiments.methods import Subject
from experiments.models import Params

VERDICTS = ("undecided", "active", "inactive", "unstable")
"""By number, see :class:`linjax.Bounds`."""
LIMIT = 60.0  # seconds of mixed-integer programs


def proven(subject: Subject, programs: bool = False) -> dict[str, float]:
    """Counts units whose activation is one affine function on the subject's box.

    Returns:
      ``static``, see :func:`static`; by verdict how many are proven to be always
      ``active``, always ``inactive``, ``unstable``, or are left ``undecided``; whether the
      certificates are ``verified``; seconds ``certify`` and ``check``; with ``programs`` seconds of
      mixed-integer ones for a unit, ``program``, see :func:`one_unit`, and the ``ratio`` of these
      for all units behind the first layer to certifying.
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
        found["program"] = one_unit(subject)
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


def one_unit(subject: Subject) -> float:
    """Mean seconds of the mixed-integer programs that decide a unit behind the first layer.

    They are those of Serra, Kumar and Ramalingam (2020, arXiv 2001.00218), solved by HiGHS, for
    ``LIMIT`` seconds; a lower bound where that is not enough for one.
    """
    start = time.perf_counter()
    bounds = linjax.certify(
        subject.net, subject.params, *subject.box, method="milp", time_limit=LIMIT
    )
    decided = sum(int(np.sum(site.verdict != 0)) for site in bounds.sites[1:])
    return (time.perf_counter() - start) / max(decided, 1)
