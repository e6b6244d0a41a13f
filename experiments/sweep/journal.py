"""What a sweep has done: lines appended to a file for each process, never rewritten."""

import json
import pathlib

from experiments import results
from experiments.results import Row

Place = tuple[str, str, float]
NETWORK = "network"
"""The rule of rows about a network as a whole: that it failed."""


class Journal:
    """The results of a sweep, and where this process appends its own.

    A row is one measured network: its ``task`` (the settings), ``rule`` and ``amount``, and
    its figures, or ``failure`` where it failed.
    """

    def __init__(self, folder: pathlib.Path, process: int = 0, retry: bool = False) -> None:
        """Reads what there is; failures count as done unless they are to be tried again."""
        self.file = folder / f"results-{process}.jsonl"
        rows = [row for row in read(folder) if not (retry and "failure" in row)]
        self.done = {place(row) for row in rows}

    def append(self, row: Row) -> None:
        """Adds a row; it is on disk when this returns, whole or not at all."""
        if place(row) not in self.done:
            results.append(self.file, row)
            self.done.add(place(row))

    def has(self, key: str, rule: str, amount: float) -> bool:
        """Whether a network has been measured by a rule, or has failed as a whole."""
        return (key, rule, amount) in self.done or (key, NETWORK, 0.0) in self.done


def place(row: Row) -> Place:
    """What a row is about."""
    return json.dumps(row["task"]), row["rule"], float(row["amount"])


def read(folder: pathlib.Path) -> list[Row]:
    """Returns the rows of all processes, in an order that doesn't depend on them.

    What has failed and was done after all isn't a failure any more.
    """
    found: dict[Place, Row] = {}
    for file in sorted(folder.glob("results*.jsonl")):
        for row in results.read(file):
            known = found.get(place(row))
            if known is None or "failure" in known:
                found[place(row)] = row
    good = {key for (key, _, _), row in found.items() if "failure" not in row}
    return [
        found[where] for where in sorted(found) if not (where[1] == NETWORK and where[0] in good)
    ]
