"""One experiment from its config to its report; every step can be interrupted and goes on."""

import json
import pathlib
import time
from typing import Any

import jax

import linjax
from experiments import (
    evaluate,
    files,
    models,
    plots,
    results,
    rules,
    tables,
    train,
    versions,
    widths,
)
from experiments.data import Dataset, batches, load


class OtherRun(Exception):
    """A folder holds a run with another config."""


def run(config: Any, workdir: str, data_dir: str | None = None) -> list[results.Row]:
    """Trains or loads a network, folds it by every rule, and writes the report.

    Args:
      config: as in ``configs/common.py``.
      workdir: folder for ``config.json``, ``training.npz``, ``results.jsonl``,
        ``results.md`` and the pictures.
      data_dir: folder that holds the data set.

    Returns:
      The rows of ``results.jsonl``, the original network's first.
    """
    folder = pathlib.Path(workdir)
    todo = rules.listed(config.rules)
    claim(folder, config)
    versions.note(folder)
    dataset = load(config.dataset, data_dir)
    network = models.build(config.network, dataset.train.x.shape[1], dataset.classes)
    print(f"{dataset.title}: {len(dataset.train.y):,} training rows; network {network.title}")
    if config.weights:
        params = models.read_weights(config.weights, network.params)
    else:
        params = train.fit(network, dataset, config.training, folder / "training.npz")

    rows = dataset.train.x[: config.calibration.rows]
    net = linjax.trace(network.apply, params, rows[:2])
    print(net)
    subject = rules.gather(
        net, params, rows, config.calibration.batch, config.get("rules_of", "whole")
    )
    measure_all(subject, dataset, todo, folder / "results.jsonl")
    finished = results.read(folder / "results.jsonl")
    heading = f"{dataset.title}, {network.title}"
    tables.report(folder, finished, heading)
    for picture in plots.write(folder, finished, subject.stats.rates, heading):
        print(f"picture: {picture}")
    return finished


def claim(folder: pathlib.Path, config: Any) -> None:
    """Reserves a folder for a config; rules may be added to a run later.

    Raises:
      OtherRun: if the folder holds a run with another config; names the fields.
    """
    mine = _flat({key: value for key, value in config.to_dict().items() if key != "rules"})
    mine = json.loads(json.dumps(mine))  # as it will be read: tuples become lists
    file = folder / "config.json"
    if not file.exists():
        files.write(file, json.dumps(mine, indent=2).encode())
        return
    theirs = json.loads(file.read_text())
    differing = [
        f"  {key}: {theirs.get(key)!r} there, {mine.get(key)!r} here"
        for key in sorted(mine.keys() | theirs.keys())
        if mine.get(key) != theirs.get(key)
    ]
    if differing:
        fields = "\n".join(differing)
        raise OtherRun(
            f"{folder} holds another run; give a new --workdir. They differ in\n{fields}"
        )


def measure_all(
    subject: rules.Subject, dataset: Dataset, todo: list[tuple[str, float]], file: pathlib.Path
) -> None:
    """Appends a row for the original and for each rule that has none yet."""
    test = dataset.test
    size = linjax.count(subject.params)
    original = evaluate.predict(subject.net.apply, subject.params, test.x)
    for rule, amount in [("original", 1.0), *todo]:
        if results.find(results.read(file), rule, amount):
            continue
        start = time.perf_counter()
        params = rules.make(subject, rule, amount)
        jax.block_until_ready(params)
        seconds = time.perf_counter() - start
        logits = evaluate.predict(subject.net.apply, params, test.x)
        row = {
            "rule": rule,
            "amount": amount,
            "parameters": linjax.count(params),
            "share": linjax.count(params) / size,
            "flops": subject.net.flops(params, test.x[:1]),
            "classes": dataset.classes,
            "predicted": rules.predicted(subject, rule, amount),
            "error": linjax.compare(
                subject.net, subject.params, params, batches(test.x, 1000)
            ).error,
            **evaluate.measure(logits, original, test.y),
            **widths.describe(subject.net, params),
        }
        if rule == "original":
            row["rates"] = widths.histograms(subject.stats.rates)
        results.append(file, row)
        print(
            f"{rule} {amount:g}: {row['parameters']:,} parameters ({row['share']:.1%}), "
            f"accuracy {row['accuracy']:.4f}, agreement {row['agreement']:.4f} "
            f"[{seconds:.2f} s]"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
