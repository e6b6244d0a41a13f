"""What a run or a sweep has done: lines of JSON, appended by each process, never rewritten."""

import datetime
import json
import os
import pathlib
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

import linjax
from experiments import files

Row = dict[str, Any]
Place = tuple[str, str, float]
NETWORK = "network"
"""The rule of rows about a network as a whole: that it failed."""


class OtherRun(Exception):
    """A folder holds a run with another config."""


class Journal:
    """The results of a folder, and where this process appends its own.

    A row is one measured network: its ``task`` (the settings that tell it apart), ``rule`` and
    ``amount``, and its figures, or ``failure`` where it failed.
    """

    def __init__(self, folder: pathlib.Path, process: int = 0, retry: bool = False) -> None:
        """Reads what there is; failures count as done unless they are to be tried again."""
        self.file = folder / (f"results-{process}.jsonl" if process else "results.jsonl")
        rows = [row for row in read(folder) if not (retry and "failure" in row)]
        self.done = {place(row) for row in rows}

    def append(self, row: Row) -> None:
        """Adds a row; it is on disk when this returns, whole or not at all."""
        if place(row) not in self.done:
            append(self.file, row)
            self.done.add(place(row))

    def has(self, task: Row, rule: str, amount: float) -> bool:
        """Whether a network has been measured by a rule, or has failed as a whole."""
        key = json.dumps(task)
        return (key, rule, amount) in self.done or (key, NETWORK, 0.0) in self.done

    def missing(self, task: Row, wanted: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
        """Those of some rules and amounts, and of the original, that a network has no row of."""
        return [pair for pair in [("original", 1.0), *wanted] if not self.has(task, *pair)]


def place(row: Row) -> Place:
    """What a row is about."""
    return json.dumps(row.get("task", {})), row["rule"], float(row["amount"])


def append(path: pathlib.Path, row: Row) -> None:
    """Appends a row in one write, after cutting off a line that a crash left unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = _whole(path)
    with path.open("ab") as file:
        file.truncate(len(whole))
        file.write(json.dumps(row, default=lambda x: x.item()).encode() + b"\n")  # of NumPy
        file.flush()
        os.fsync(file.fileno())


def lines(path: pathlib.Path) -> list[Row]:
    """Returns the finished rows of a file, none if there is no file."""
    return [json.loads(line) for line in _whole(path).splitlines()]


def _whole(path: pathlib.Path) -> bytes:
    """Returns the file's content up to its last line break."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def read(folder: pathlib.Path) -> list[Row]:
    """Returns the rows of all processes, in an order that doesn't depend on them.

    What has failed and was done after all isn't a failure any more.
    """
    found: dict[Place, Row] = {}
    for file in sorted(folder.glob("results*.jsonl")):
        for row in lines(file):
            known = found.get(place(row))
            if known is None or "failure" in known:
                found[place(row)] = {"task": {}} | row
    good = {key for (key, _, _), row in found.items() if "failure" not in row}
    return [
        found[where] for where in sorted(found) if not (where[1] == NETWORK and where[0] in good)
    ]


def claim(folder: pathlib.Path, config: Any) -> None:
    """Reserves a folder for a config; axes and rules may be added to it later.

    Raises:
      OtherRun: if the folder holds a run with another config; names the fields.
    """
    free = ("sweep", "rules", "pruned_rules")
    mine = flat({key: value for key, value in config.items() if key not in free})
    mine = json.loads(json.dumps(mine))  # as it will be read: tuples become lists
    file = folder / "config.json"
    if not file.exists():
        files.write(file, json.dumps(mine, indent=2).encode())
        files.write(folder / "versions.json", json.dumps(versions(), indent=2).encode())
        return
    theirs = json.loads(file.read_text())
    differing = [key for key in sorted(mine.keys() | theirs) if mine.get(key) != theirs.get(key)]
    if differing:
        said = [f"{folder} holds another run; give a new --workdir. They differ in"]
        said += [f"  {k}: {theirs.get(k)!r} there, {mine.get(k)!r} here" for k in differing]
        raise OtherRun("\n".join(said))


def flat(config: Any) -> Row:
    """A config's fields by their names, ``training.epochs``."""
    return flatten_dict(ConfigDict(config).to_dict(), sep=".")


def versions() -> dict[str, str]:
    """What a run is done with: versions of what figures depend on, the device, the date."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "linjax": linjax.__version__,
        **{name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "device": f"{jax.devices()[0].device_kind} × {jax.device_count()}",
        "host": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.date.today().isoformat(),
    }
