"""Time of ``certify`` against one mixed-integer program per unit, solved by HiGHS.

    python -m experiments.benchmarks.certify

The programs are those of Serra, Kumar & Ramalingam (2020), over the reference networks of
``shared/reference/exact``; solving all would take hours, so a sample of the units is
solved and the time scaled to all units behind the first layer.
"""

import os
import pathlib

import numpy as np

import linjax
from experiments import exact, models
from experiments.benchmarks.reference import Ratio, show
from experiments.methods import Subject

NETWORKS = (
    "25-25_0.001_1",
    "100-100_0.0005_0",
    "100-100_0.0005_1",
    "400-400_0.0002_1",
    "100-100-100-100-100_0.0002_1",
)


def shared() -> pathlib.Path:
    """The folder of reference networks: ``LINJAX_SHARED``, or beside the repository."""
    beside = pathlib.Path(__file__).resolve().parents[3] / "shared"
    return pathlib.Path(os.environ.get("LINJAX_SHARED", beside))


def load(name: str) -> models.Network:
    """One of the reference networks."""
    with np.load(shared() / "reference" / "exact" / f"{name}.npz") as file:
        depth = sum(key.startswith("kernel") for key in file)
        layers = {i: {"kernel": file[f"kernel_{i}"], "bias": file[f"bias_{i}"]}
                  for i in range(depth)}  # fmt: skip
    return models.dense(layers, "relu")


def ratios() -> list[Ratio]:
    """Times certificates and a sample of the programs; nothing where the networks are absent."""
    if not (shared() / "reference" / "exact").is_dir():
        return []
    found = []
    for name in NETWORKS:
        made, x = load(name), np.zeros((1, 784), np.float32)
        net = linjax.trace(made.apply, made.params, x)
        subject = Subject(net, made.params, x, 1, seconds=300)
        told = exact.proven(subject, programs=True)
        deeper = sum(len(site.verdict) for site in subject.bounds.sites[1:])
        verified = "verified" if told["verified"] else "NOT VERIFIED"
        note = f"{told['undecided']} undecided, {verified} in {told['check']:.1f} s"
        programs = f"{deeper} mixed-integer programs, from {exact.SAMPLE}"
        found.append(
            Ratio(f"certify {name}", told["certify"], programs, told["program"] * deeper, note)
        )
    return found


if __name__ == "__main__":
    show(ratios())
