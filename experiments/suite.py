"""Runs one config on many tables and seeds, and summarises the loss of accuracy.

python -m experiments.suite --config=configs/quality_tabular.py --workdir=DIR --data_dir=DIR
"""

import itertools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

from experiments import files
from experiments.main import CONFIG, DATA_DIR, WORKDIR
from experiments.results import Row, append, read
from experiments.run import run

POINT = 0.01


class Summary(NamedTuple):
    """A rule at an amount over many tasks.

    Attributes:
      rule: the rule.
      amount: its amount.
      tasks: number of tasks.
      accuracy: mean accuracy.
      loss: mean loss of accuracy against the original, in points.
      within: share of tasks within one point of the original.
      agreement: mean share of predictions that are the original's.
    """

    rule: str
    amount: float
    tasks: int
    accuracy: float
    loss: float
    within: float
    agreement: float


def summarise(tasks: list[list[Row]]) -> list[Summary]:
    """Summarises rows of many tasks, each with the original's row first.

    >>> row = lambda rule, accuracy: {
    ...     "rule": rule, "amount": 1.0, "accuracy": accuracy, "agreement": 1.0}
    >>> tasks = [[row("original", 0.9), row("size", 0.9)], [row("original", 0.8), row("size", 0.7)]]
    >>> summarise(tasks)[1].within
    0.5
    """
    found: dict[tuple[str, float], list[tuple[Row, Row]]] = {}
    for rows in tasks:
        for row in rows:
            found.setdefault((row["rule"], row["amount"]), []).append((rows[0], row))
    result = []
    for (rule, amount), pairs in found.items():
        losses = np.array([first["accuracy"] - row["accuracy"] for first, row in pairs])
        result.append(
            Summary(
                rule=rule,
                amount=amount,
                tasks=len(pairs),
                accuracy=float(np.mean([row["accuracy"] for _, row in pairs])),
                loss=100 * float(losses.mean()),
                within=float((losses <= POINT + 1e-9).mean()),
                agreement=float(np.mean([row["agreement"] for _, row in pairs])),
            )
        )
    return result


def markdown(summaries: list[Summary]) -> str:
    """Returns the summary as a table."""
    lines = [
        "| rule | amount | tasks | accuracy | loss, points | within a point | agreement |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {s.rule} | {s.amount:g} | {s.tasks} | {s.accuracy:.4f} | {s.loss:.2f} "
        f"| {s.within:.2f} | {s.agreement:.3f} |"
        for s in summaries
    ]
    return "\n".join(lines) + "\n"


def run_all(config: Any, workdir: pathlib.Path, data_dir: str | None) -> list[Summary]:
    """Runs every table and seed; a failure is recorded and doesn't stop the others."""
    names = config.tables or sorted(p.stem for p in pathlib.Path(data_dir or ".").glob("*.parquet"))
    tasks = []
    for seed, name in itertools.product(config.seeds, names):
        one = ConfigDict(config.run.to_dict())
        one.dataset.name, one.dataset.seed = name, seed
        one.network.seed = one.training.seed = seed
        try:
            rows = run(one, str(workdir / f"{name}-{seed}"), data_dir)
        except (ValueError, KeyError, OSError) as error:
            append(workdir / "failures.jsonl", {"table": name, "seed": seed, "error": str(error)})
            print(f"{name}, seed {seed}: {error}")
            continue
        tasks.append(rows)
        files.write(workdir / "summary.md", markdown(summarise(learnt(tasks))).encode())
    return summarise(learnt(tasks))


def learnt(tasks: list[list[Row]]) -> list[list[Row]]:
    """The tasks whose original network tells classes apart: a constant answer has 1 / classes."""
    return [rows for rows in tasks if rows[0]["balanced_accuracy"] > 1 / rows[0]["classes"] + POINT]


def main(argv: list[str]) -> None:
    """Runs the suite that the flags name."""
    logging.set_verbosity(logging.ERROR)
    # Small networks of ever new widths: compiling takes longer than running.
    jax.config.update("jax_disable_most_optimizations", True)
    folder = pathlib.Path(WORKDIR.value)
    print(markdown(run_all(CONFIG.value, folder, DATA_DIR.value)))
    failed = read(folder / "failures.jsonl")
    print(f"summary: {folder / 'summary.md'}" + (f"; {len(failed)} runs failed" if failed else ""))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
