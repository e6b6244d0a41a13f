"""Time of ``certify`` against one mixed-integer program per unit, solved by HiGHS.

    python -m experiments.benchmarks.certify

The programs are those of Serra, Kumar & Ramalingam (2020), over the reference networks of
``shared/reference/exact``; solving all would take hours, so a sample of the units is
solved and the time scaled to all units behind the first layer.
"""

import os
import pathlib
import time

import numpy as np

import linjax
from experiments.benchmarks.reference import Ratio, apply, show
from linjax.chains.layers import Layer
from linjax.evidence.bounds import Verdict
from linjax.evidence.certify.chain import checked_box
from linjax.evidence.certify.crown import Rows, relax
from linjax.evidence.certify.interval import activation, preactivation
from linjax.evidence.certify.milp import maximise
from linjax.evidence.certify.steps import steps_of

NETWORKS = (
    "25-25_0.001_1",
    "100-100_0.0005_0",
    "100-100_0.0005_1",
    "400-400_0.0002_1",
    "100-100-100-100-100_0.0002_1",
)
SAMPLE = 6
LIMIT = 10.0  # seconds a program at most: the ratio is a lower bound where it is hit


def shared() -> pathlib.Path:
    """The folder of reference networks: ``LINJAX_SHARED``, or beside the repository."""
    beside = pathlib.Path(__file__).resolve().parents[3] / "shared"
    return pathlib.Path(os.environ.get("LINJAX_SHARED", beside))


def load(name: str) -> list[dict[str, np.ndarray]]:
    """One of the reference networks."""
    with np.load(shared() / "reference" / "exact" / f"{name}.npz") as file:
        depth = sum(key.startswith("kernel") for key in file)
        return [{"kernel": file[f"kernel_{i}"], "bias": file[f"bias_{i}"]} for i in range(depth)]


def one_program(params: list[dict[str, np.ndarray]], rng: np.random.Generator) -> float:
    """Mean seconds of one program at the second site, of a sample of units and signs."""
    layers = tuple(Layer(part["kernel"], part["bias"]) for part in params)
    chain = steps_of(layers, [(0.0, 1.0)] * (len(layers) - 1))
    box = checked_box(0.0, 1.0, chain)
    first, second = chain.steps[:2]
    relaxed = (relax(first, box, z := preactivation(first, box)),)
    reach = preactivation(second, activation(first, z))
    crossing = np.flatnonzero((reach.lower < 0) & (reach.upper > 0))
    units = rng.choice(crossing, SAMPLE)
    sign = rng.choice([-1.0, 1.0], SAMPLE)
    rows = Rows(second.kernel[:, units].T * sign[:, None], second.bias[units] * sign)
    start = time.perf_counter()
    for row in range(SAMPLE):
        maximise(relaxed, box, rows, row, LIMIT)
    return (time.perf_counter() - start) / SAMPLE


def ratios() -> list[Ratio]:
    """Times certificates and a sample of the programs; nothing where the networks are absent."""
    if not (shared() / "reference" / "exact").is_dir():
        return []
    rng = np.random.default_rng(0)
    found = []
    for name in NETWORKS:
        params = load(name)
        net = linjax.trace(apply, params, np.zeros((1, 784), np.float32))
        start = time.perf_counter()
        bounds = linjax.certify(net, params, 0.0, 1.0, time_limit=300)
        spent = time.perf_counter() - start
        start = time.perf_counter()
        verified = linjax.check_certificate(net, params, bounds).ok
        checked = time.perf_counter() - start
        left = sum(int((s.verdict == Verdict.UNDECIDED).sum()) for s in bounds.sites)
        deeper = sum(len(site.verdict) for site in bounds.sites[1:])
        note = f"{left} undecided, {'verified' if verified else 'NOT VERIFIED'} in {checked:.1f} s"
        programs = f"{deeper} mixed-integer programs, from {SAMPLE}"
        found.append(Ratio(f"certify {name}", spent, programs, one_program(params, rng) * deeper,
                           note))  # fmt: skip
    return found


if __name__ == "__main__":
    show(ratios())
