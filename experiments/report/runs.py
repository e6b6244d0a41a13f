"""Reads folders of runs and of sweeps into one form."""

import json
import pathlib
from typing import Any, NamedTuple

from experiments import results
from experiments.results import Row
from experiments.sweep import journal

Settings = tuple[tuple[str, Any], ...]


class Run(NamedTuple):
    """A folder's content.

    Attributes:
      name: the folder's name.
      folder: where it is.
      config: the config's fields.
      versions: what it ran on, empty where nobody noted it.
      rows: measured networks; each row's ``task`` says which network it was made of.
      failures: rows of what failed.
    """

    name: str
    folder: pathlib.Path
    config: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row]
    failures: list[Row]

    @property
    def title(self) -> str:
        """Data and network in words."""
        data, hidden = self.config.get("dataset.name"), self.config.get("network.hidden")
        tables = {str(task_of(row).get("dataset.name", data)) for row in self.rows}
        what = f"{len(tables)} data sets" if len(tables) > 1 else next(iter(tables), str(data))
        kind = self.config.get("network.kind", "mlp")
        if kind != "mlp":
            return f"{what}, {kind}"
        return what if hidden is None else f"{what}, hidden layers {'-'.join(map(str, hidden))}"


class NoRun(Exception):
    """A folder holds no results."""


def read(folder: pathlib.Path) -> Run:
    """Reads the folder of a run or of a sweep.

    Raises:
      NoRun: if there are no results in it.
    """
    rows = journal.read(folder) if any(folder.glob("results-*.jsonl")) else []
    if not rows:
        rows = results.read(folder / "results.jsonl")
        rows = [{"task": {}} | row for row in rows if "rule" in row and "accuracy" in row]
    if not rows:
        raise NoRun(f"{folder} holds no results of experiments.main or experiments.sweep")
    return Run(
        name=folder.resolve().name,
        folder=folder,
        config=_json(folder / "config.json"),
        versions=_json(folder / "versions.json"),
        rows=[row for row in rows if "failure" not in row],
        failures=[row for row in rows if "failure" in row],
    )


def together(found: list[Run]) -> Run:
    """Several runs as one, each of them a task of its own."""
    rows = [row | {"task": _own(run) | task_of(row)} for run in found for row in run.rows]
    failures = [row for run in found for row in run.failures]
    first = found[0].config
    shared = {k: v for k, v in first.items() if all(run.config.get(k) == v for run in found)}
    return Run("All runs together", found[0].folder, shared, {}, rows, failures)


def _own(run: Run) -> dict[str, Any]:
    """What tells a run's networks from those of other runs."""
    return {"run": run.name, "dataset.name": run.config.get("dataset.name", "")}


def task_of(row: Row) -> dict[str, Any]:
    """The settings of the network that a row is about."""
    return row.get("task", {})


def _json(file: pathlib.Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}
