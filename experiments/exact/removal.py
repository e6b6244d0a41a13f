"""How many units and parameters a proof removes: by the rules of 2020, and by ours."""

import pathlib
import time
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

import linjax
from experiments import evaluate, results
from experiments.data import Dataset, load
from experiments.exact import tables
from experiments.exact.network import Params, apply
from experiments.exact.training import Members, fit
from experiments.run import claim
from linjax.evidence.bounds import Verdict
from linjax.fold.lossless.exact import DEFAULT, PUBLISHED
from linjax.fold.report import Report


class Case(NamedTuple):
    """One network to train: ``width`` units in each hidden layer, penalties, and a seed."""

    width: int
    l1: float
    extra: float
    seed: int


def run(config: Any, workdir: str, data_dir: str | None = None) -> list[results.Row]:
    """Trains, certifies and folds every network of a config, width by width.

    Args:
      config: as in ``configs/exact_mnist.py``.
      workdir: folder for ``config.json``, ``training_WIDTH.npz``, ``results.jsonl`` and
        ``results.md``.
      data_dir: folder that holds the data set.

    Returns:
      The rows of ``results.jsonl``, one a network.
    """
    folder = pathlib.Path(workdir)
    claim(folder, config)
    dataset = load(config.dataset, data_dir)
    file = folder / "results.jsonl"
    for width, cases in by_width(config).items():
        known = [Case(*(row[field] for field in Case._fields)) for row in results.read(file)]
        if set(cases) <= set(known):
            continue
        print(f"{len(cases)} networks of width {width}")
        widths = (dataset.train.x.shape[1], *[width] * config.hidden_layers, dataset.classes)
        together = fit(
            members(cases), widths, config.training, dataset.train, folder / f"training_{width}.npz"
        )
        for index, case in enumerate(cases):
            if case in known:
                continue
            params = jax.tree.map(lambda leaf, i=index: leaf[i], together)
            row = case._asdict() | measure(params, dataset, config.time_limit)
            results.append(file, row)
            print(tables.sentence(row))
    finished = results.read(file)
    tables.report(folder, tables.removal(finished, config), f"{dataset.title}: exact rewriting")
    return finished


def by_width(config: Any) -> dict[int, list[Case]]:
    """Returns the networks of a config, those that are trained together under their width."""
    groups: dict[int, list[Case]] = {}
    for width, l1, extra in config.cases:
        groups.setdefault(width, []).extend(
            Case(width, l1, extra, seed) for seed in range(config.seeds)
        )
    return groups


def members(cases: list[Case]) -> Members:
    """Returns what tells the cases of one width apart, as arrays."""
    return Members(
        np.array([case.seed for case in cases], np.int32),
        np.array([case.l1 for case in cases], np.float32),
        np.array([case.extra for case in cases], np.float32),
    )


def measure(params: Params, dataset: Dataset, time_limit: float) -> results.Row:
    """Certifies a network on the box [0, 1] and folds it by both sets of rules.

    Args:
      params: the network.
      dataset: its test rows measure accuracy and agreement; inputs are in the box.
      time_limit: seconds for certification, see :func:`linjax.certify`.

    Returns:
      Figures of the network, of its certificates, and of both folds.
    """
    test = dataset.test
    net = linjax.trace(apply, params, test.x[:2])
    start = time.perf_counter()
    bounds = linjax.certify(net, params, 0.0, 1.0, time_limit=time_limit)
    seconds = time.perf_counter() - start
    verdicts = np.concatenate([site.verdict for site in bounds.sites])
    original = evaluate.predict(apply, params, test.x)
    row = {
        "accuracy": evaluate.measure(original, original, test.y)["accuracy"],
        "units": len(verdicts),
        "parameters": linjax.count(params),
        "undecided": int((verdicts == Verdict.UNDECIDED).sum()),
        "verified": linjax.check_certificate(net, params, bounds).ok,
        "seconds": seconds,
    }
    for name, rules in (("published", PUBLISHED), ("ours", DEFAULT)):
        with warnings.catch_warnings():
            # Nothing to remove is a result here, not a surprise.
            warnings.simplefilter("ignore", linjax.FoldWarning)
            folded, report = linjax.fold_and_report(params, bounds, rewritings=rules)
        logits = evaluate.predict(net.apply, folded, test.x)
        row[f"{name}_units"] = removed_units(report)
        row[f"{name}_parameters"] = report.before - report.after
        row[f"{name}_agreement"] = evaluate.measure(logits, original, test.y)["agreement"]
    return row


def removed_units(report: Report) -> int:
    """Returns how many units are gone; linear units put for others count against them."""
    return sum(site.before - len(site.kept) - site.linears for site in report.sites.values())
