"""The one table of results: over networks that were trained alike, in Markdown, CSV and HTML."""

import json
import pathlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments import files, methods
from experiments.journal import NETWORK, Row

BY = ("pruning.share", "calibration.rows")
"""Settings that tables tell apart where a sweep varies them; means are over all others."""
POINTS = (0.0, 0.5, 1.0, 2.0)
ROUNDING = 1e-9
WORDS = ("rule", "run", "kernel", "architecture", "from")

FORMATS = {
    "amount": "g", "networks": ".0f", "parameters": ",.0f", "share": ".1%", "units": ".1%",
    "MFLOP": ".3g", "FLOPs": ".1%", "accuracy": ".2%", "balanced": ".2%", "agreement": ".2%",
    "spread": ".4f", "loss": ".2f", "± loss": ".2f", **{f"≤ {p:g}": ".2f" for p in POINTS},
    "predicted error": ".4f", "measured error": ".4f", "perplexity": ".3f", "divergence": ".4f",
    "bytes": ".1%",
}  # fmt: skip
"""The columns and how their numbers are written; others have four digits.

``share``, ``units``, ``FLOPs`` and ``bytes`` are shares of the original's; ``loss`` is of accuracy
in points, with its standard error, and ``≤ p`` the share of networks that lose at most p points;
``spread`` is the standard deviation of the agreement."""


def good(rows: Sequence[Row]) -> list[Row]:
    """The rows that hold figures."""
    return [row for row in rows if "failure" not in row]


def learnt(original: Row) -> bool:
    """Whether a network tells classes apart: a constant answer has 1 / classes."""
    return original["balanced_accuracy"] > 1 / original["classes"] + 0.01


def task_of(row: Row) -> tuple[tuple[str, str], ...]:
    """The settings of a row's network, pruned or not."""
    return tuple((k, str(v)) for k, v in sorted(row["task"].items()) if k != "pruning.share")


def originals(rows: Sequence[Row]) -> dict[Any, Row]:
    """By task the original's row, of the network that wasn't pruned in training."""
    return {
        task_of(row): row
        for row in good(rows)
        if row["rule"] == "original" and not row["task"].get("pruning.share", 0.0)
    }


def pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Each row with the original of its task, the original's first.

    Of several tasks those are left out whose network doesn't tell classes apart.
    """
    known = originals(rows)
    some = {task for task, row in known.items() if len(known) == 1 or learnt(row)}
    return [(known[task_of(row)], row) for row in good(rows) if task_of(row) in some]


def flat(rows: Sequence[Row], by: Collection[str] = BY) -> pd.DataFrame:
    """A line of figures for each row, with what it changes against its original."""
    found = []
    varying = [name for name in by if len({str(r["task"].get(name)) for r in good(rows)}) > 1]
    for before, row in pairs(rows):
        loss = 100 * (before["accuracy"] - row["accuracy"])
        line = {name: row["task"].get(name, 0.0) for name in varying} | {
            "rule": row["rule"],
            "amount": row["amount"],
            "parameters": row["parameters"],
            "share": row["parameters"] / before["parameters"],
            "units": _units(row) / (_units(before) or np.nan),
            "MFLOP": row.get("flops", np.nan) / 1e6,
            "FLOPs": row.get("flops", np.nan) / before.get("flops", np.nan),
            "accuracy": row["accuracy"],
            "balanced": row["balanced_accuracy"],
            "agreement": row["agreement"],
            "loss": loss,
            **{f"≤ {point:g}": float(loss <= point + ROUNDING) for point in POINTS},
            "predicted error": row.get("predicted"),
            "measured error": row.get("error"),
            "perplexity": row.get("perplexity"),
            "divergence": row.get("divergence"),
            "bytes": row.get("bytes", np.nan) / before.get("bytes", np.nan),
        }
        line |= {
            f"speed, {size}": whole / small
            for size, (small, whole) in row.get("latency", {}).items()
        }
        found.append(line | row.get("proven", {}))
    return pd.DataFrame(found, columns=None if found else [*varying, "rule", "amount"])


def _units(row: Row) -> float:
    """Units of all layers, with those that are linear."""
    return float(sum(row.get("units", ())) + sum(row.get("linear", ())))


def summarise(rows: Sequence[Row], by: Collection[str] = BY) -> pd.DataFrame:
    """Means by rule and amount, and by the settings that a sweep varies."""
    lines = flat(rows, by)
    keys = list(lines.columns[: list(lines.columns).index("amount") + 1])
    if lines.empty:
        return lines
    lines = lines.astype({name: str for name in keys if lines[name].map(type).eq(list).any()})
    numbers = [name for name in lines.columns if name not in keys]
    lines[numbers] = lines[numbers].astype(float)
    grouped = lines.groupby(keys, dropna=False, sort=False)
    found = grouped[numbers].mean()
    found.insert(0, "networks", grouped.size())
    found.insert(list(found).index("loss") + 1, "± loss", grouped["loss"].sem())
    found.insert(list(found).index("agreement") + 1, "spread", grouped["agreement"].std(ddof=0))
    if (found["networks"] == 1).all():
        found = found.drop(columns=["networks", "spread", "loss", "± loss",
                                    *(f"≤ {p:g}" for p in POINTS)])  # fmt: skip
    return _sorted(found.reset_index(), keys)


def _sorted(found: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Rules in their usual order, large amounts first."""
    places = {rule: n for n, rule in enumerate(sorted({*found["rule"]}, key=methods.place))}

    def order(column: pd.Series) -> pd.Series:
        if column.name == "rule":
            return column.map(places)
        return -column if column.name == "amount" else column

    return found.sort_values(keys, key=order, kind="stable", ignore_index=True)


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """The table in words, without columns that say nothing."""
    words = pd.DataFrame(index=found.index)
    for name in found:
        written = FORMATS.get(name, ".4g")
        words[name] = [
            value.replace("_", " ") if isinstance(value, str)
            else "" if pd.isna(value) else format(value, written)
            for value in found[name]
        ]  # fmt: skip
    if "rule" in words:
        first = found["rule"] == "original"
        for name in ("amount", "predicted error", "measured error"):
            words.loc[first & (name in words), name] = ""
    told = words.columns[(words != "").any()] if len(words) else words.columns
    return words[told]


def markdown(words: pd.DataFrame) -> str:
    """A table in Markdown: words to the left, numbers to the right.

    >>> print(markdown(pd.DataFrame({"rule": ["lump"], "b": ["2"]})))
    | rule | b |
    | :--- | ---: |
    | lump | 2 |
    """
    marks = [":---" if name in WORDS else "---:" for name in words]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (words, marks, *words.values))


def html(words: pd.DataFrame) -> str:
    """A table in HTML; cells are escaped."""
    return words.to_html(index=False, border=0)


def csv(rows: Sequence[Row]) -> str:
    """All rows as comma-separated values; what isn't a single value is JSON."""
    plain = pd.DataFrame(rows).map(lambda v: json.dumps(v) if isinstance(v, list | dict) else v)
    return plain.to_csv(index=False)


def notes(rows: Sequence[Row]) -> list[str]:
    """What was left out of the table, and what failed."""
    known, said = originals(rows), []
    alone = {task_of(row) for row in good(rows)} - known.keys()
    if alone:
        said.append(f"Left out, as the original isn't here: {len(alone)} tasks.")
    constant = [row for row in known.values() if not learnt(row)]
    if constant and len(known) > 1:
        tasks = ", ".join(sorted({" ".join(map(str, r["task"].values())) for r in constant}))
        said.append(f"Left out, as the network answers with one class: {tasks}.")
    for row in rows:
        if "failure" in row:
            what = "" if row["rule"] == NETWORK else f", {row['rule']} {row['amount']:g}"
            said.append(f"Failed: {row['task']}{what}: {row['failure']}")
    return said


def write(folder: pathlib.Path, rows: Sequence[Row], by: Collection[str] = BY) -> str:
    """Writes ``results.md``, ``.csv`` and ``.html``; returns what to print."""
    words = shown(summarise(rows, by))
    said = "".join(f"\n{line}\n" for line in notes(rows))
    content = {
        "results.md": f"# {folder.resolve().name}\n\n{markdown(words)}\n{said}",
        "results.csv": csv(rows),
        "results.html": html(words),
    }
    for name, text in content.items():
        files.write(folder / name, text.encode())
    return f"{words.to_string(index=False)}\n{said}table: {folder / 'results.md'}"
