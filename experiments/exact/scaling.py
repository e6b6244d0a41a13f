"""How certification scales with width and depth, against one program per unit by HiGHS."""

import pathlib
import time
from typing import Any

import jax
import numpy as np

import linjax
from experiments import results
from experiments.benchmarks.certify import one_program
from experiments.data import Dataset, load
from experiments.exact import tables
from experiments.exact.network import Params, apply
from experiments.exact.removal import Case, members
from experiments.exact.training import fit
from experiments.run import claim
from linjax.evidence.bounds import Verdict


def run(config: Any, workdir: str, data_dir: str | None = None) -> list[results.Row]:
    """Trains a network of every shape, certifies it, and solves a sample of its programs.

    Args:
      config: as in ``configs/exact_scaling.py``.
      workdir: folder for ``config.json``, the weights, ``results.jsonl`` and ``results.md``.
      data_dir: folder that holds the data set.

    Returns:
      The rows of ``results.jsonl``, one a shape.
    """
    folder = pathlib.Path(workdir)
    claim(folder, config)
    dataset = load(config.dataset, data_dir)
    file = folder / "results.jsonl"
    for hidden in config.shapes:
        if list(hidden) in [row["hidden"] for row in results.read(file)]:
            continue
        params = _trained(hidden, config, dataset, folder)
        row = {"hidden": list(hidden), **measure(params, config.time_limit, config.sampled)}
        results.append(file, row)
        print(f"{row['hidden']}: {row['undecided']} undecided [{row['certify']:.1f} s]")
    finished = results.read(file)
    tables.report(folder, tables.scaling(finished), f"{dataset.title}: certification")
    return finished


def _trained(
    hidden: tuple[int, ...], config: Any, dataset: Dataset, folder: pathlib.Path
) -> Params:
    alone = members([Case(hidden[0], config.l1, 0.0, config.training.seed)])
    widths = (dataset.train.x.shape[1], *hidden, dataset.classes)
    checkpoint = folder / f"training_{'-'.join(map(str, hidden))}.npz"
    params = fit(alone, widths, config.training, dataset.train, checkpoint)
    return jax.tree.map(lambda leaf: leaf[0], params)


def measure(params: Params, time_limit: float, sampled: bool) -> results.Row:
    """Times certificates, their verification, and programs; compilation included.

    Args:
      params: a network on the box [0, 1].
      time_limit: seconds for certification.
      sampled: whether to solve a sample of programs at the second layer. Without, their
        time and the ratio are not a number.

    Returns:
      Counts of verdicts; seconds ``certify``, ``check``, and of one ``program``; ``ratio``,
      the time of one program for each unit behind the first layer over that of ``certify``.
    """
    net = linjax.trace(apply, params, np.zeros((1, params[0]["kernel"].shape[0]), np.float32))
    start = time.perf_counter()
    bounds = linjax.certify(net, params, 0.0, 1.0, time_limit=time_limit)
    certified = time.perf_counter()
    verified = linjax.check_certificate(net, params, bounds).ok
    checked = time.perf_counter()
    verdicts = np.concatenate([site.verdict for site in bounds.sites])
    program = one_program(params, np.random.default_rng(0)) if sampled else float("nan")
    deeper = len(verdicts) - len(bounds.sites[0].verdict)
    return {
        "units": len(verdicts),
        **{v.name.lower(): int((verdicts == v).sum()) for v in Verdict},
        "verified": verified,
        "certify": certified - start,
        "check": checked - certified,
        "program": program,
        "ratio": program * deeper / (certified - start),
    }
