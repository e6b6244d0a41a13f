"""Results: one line of JSON a row, appended, never rewritten."""

import json
import os
import pathlib
from typing import Any

Row = dict[str, Any]


def append(path: pathlib.Path, row: Row) -> None:
    """Appends a row in one write, after cutting off a line that a crash left unfinished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = _whole(path)
    with path.open("ab") as file:
        file.truncate(len(whole))
        file.write(json.dumps(row, default=lambda x: x.item()).encode() + b"\n")  # of NumPy
        file.flush()
        os.fsync(file.fileno())


def read(path: pathlib.Path) -> list[Row]:
    """Returns the finished rows, none if there is no file."""
    return [json.loads(line) for line in _whole(path).splitlines()]


def find(rows: list[Row], rule: str, amount: float) -> Row | None:
    """Returns the row of a rule at an amount, None if it is still to be made."""
    return next((r for r in rows if (r["rule"], r["amount"]) == (rule, amount)), None)


def _whole(path: pathlib.Path) -> bytes:
    """Returns the file's content up to its last line break."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]
