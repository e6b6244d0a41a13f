"""Rows beside their originals, by rule and by what was pruned in training."""

from collections.abc import Sequence

from experiments.report.runs import Run
from experiments.results import Row
from experiments.sweep import summary

LOOKS = ("threshold", "published_size", "size", "compress", "tolerance", "refit",
         "whitened_svd", "svd", "magnitude", "activity")  # fmt: skip
COLOURS = 10

Key = tuple[float, str]  # share pruned in training, rule


def tasks(run: Run) -> int:
    """Number of networks that were trained, pruned ones apart."""
    return len({summary.task_of(row) for row in run.rows})


def name_of(key: Key) -> str:
    """A line's name: the rule, and what was pruned in training.

    >>> name_of((0.25, "published_size"))
    'published size, 25% pruned'
    """
    pruned, rule = key
    words = rule.replace("_", " ").replace("original", "original" if not pruned else "no fold")
    return f"{words}, {pruned:.0%} pruned" if pruned else words


def look_of(key: Key, keys: Sequence[Key]) -> int:
    """Colour and mark of a line: a rule's own if nothing was pruned."""
    pruned, rule = key
    if not pruned and rule in LOOKS:
        return LOOKS.index(rule)
    others = [k for k in keys if k[0] or k[1] not in LOOKS]
    return others.index(key) % COLOURS


def pairs_of(rows: Sequence[Row]) -> dict[tuple[float, str, float], list[tuple[Row, Row]]]:
    """Each row with the original of its task, by pruning, rule and amount."""
    originals = {
        summary.task_of(row): row
        for row in rows
        if row["rule"] == "original" and not summary.pruned_in(row)
    }
    found: dict[tuple[float, str, float], list[tuple[Row, Row]]] = {}
    for row in rows:
        before = originals.get(summary.task_of(row))
        if before is not None and summary.learnt(before):
            key = (summary.pruned_in(row), row["rule"], row["amount"])
            found.setdefault(key, []).append((before, row))
    return {key: found[key] for key in sorted(found, key=summary.place)}


def points_of(pairs: Sequence[tuple[Row, Row]]) -> list[float]:
    return [100 * (before["accuracy"] - after["accuracy"]) for before, after in pairs]
