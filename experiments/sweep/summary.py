"""The rows of a sweep, summarised over tasks and seeds."""

from typing import Any, NamedTuple

import numpy as np

from experiments import rules
from experiments.markdown import tabulated
from experiments.results import Row
from experiments.sweep.journal import NETWORK

POINTS = (0.0, 0.5, 1.0, 2.0)
ROUNDING = 1e-9
ORDER = ("original", *rules.NAMES)


class Summary(NamedTuple):
    """A rule at an amount, over all networks that were trained alike.

    Attributes:
      pruned: share of the units that training has pruned.
      rule: the rule.
      amount: its amount.
      networks: how many networks it was measured on.
      share: mean share of the original's parameters.
      flops: mean share of its floating point operations; None where these weren't counted.
      accuracy: mean accuracy.
      balanced: mean balanced accuracy.
      loss: mean loss of accuracy against the original, in points.
      within: shares of networks within :data:`POINTS` of the original.
      agreement: mean share of predictions that are the original's.
    """

    pruned: float
    rule: str
    amount: float
    networks: int
    share: float
    flops: float | None
    accuracy: float
    balanced: float
    loss: float
    within: tuple[float, ...]
    agreement: float


def summarise(rows: list[Row]) -> list[Summary]:
    """Summarises rows by pruning, rule and amount.

    Networks pruned in training are compared with the one of the same task that wasn't; that
    one must tell classes apart, or its task is left out.
    """
    originals = {task_of(r): r for r in good(rows) if r["rule"] == "original" and not pruned_in(r)}
    found: dict[Any, list[tuple[Row, Row]]] = {}
    for row in good(rows):
        original = originals.get(task_of(row))
        if original is not None and learnt(original):
            key = (pruned_in(row), row["rule"], row["amount"])
            found.setdefault(key, []).append((original, row))
    return [_summary(key, found[key]) for key in sorted(found, key=place)]


def place(key: tuple[float, str, float]) -> tuple[float, int, float]:
    """Sorts (pruned, rule, amount): rules in their usual order, large amounts first."""
    return key[0], ORDER.index(key[1]), -key[2]


def _summary(key: tuple[float, str, float], pairs: list[tuple[Row, Row]]) -> Summary:
    pruned, rule, amount = key
    points = np.array([100 * (before["accuracy"] - after["accuracy"]) for before, after in pairs])

    def mean(name: str) -> float:
        return float(np.mean([after[name] for _, after in pairs]))

    return Summary(
        pruned=pruned,
        rule=rule,
        amount=amount,
        networks=len(pairs),
        share=float(
            np.mean([after["parameters"] / before["parameters"] for before, after in pairs])
        ),
        flops=float(np.mean([after["flops"] / before["flops"] for before, after in pairs]))
        if all("flops" in row for pair in pairs for row in pair)
        else None,
        accuracy=mean("accuracy"),
        balanced=mean("balanced_accuracy"),
        loss=float(points.mean()),
        within=tuple(float((points <= limit + ROUNDING).mean()) for limit in POINTS),
        agreement=mean("agreement"),
    )


def good(rows: list[Row]) -> list[Row]:
    """The rows that hold figures."""
    return [row for row in rows if "failure" not in row]


def learnt(original: Row) -> bool:
    """Whether a network tells classes apart: a constant answer has 1 / classes."""
    return original["balanced_accuracy"] > 1 / original["classes"] + 0.01


def task_of(row: Row) -> tuple[tuple[str, Any], ...]:
    """The settings of a row's network, pruned or not."""
    return tuple((k, str(v)) for k, v in sorted(row["task"].items()) if k != "pruning.share")


def pruned_in(row: Row) -> float:
    """The share of units that training has pruned."""
    return float(row["task"].get("pruning.share", 0.0))


COLUMNS = (
    "pruned", "rule", "amount", "networks", "share", "FLOPs", "accuracy", "balanced",
    "loss, points", *(f"within {p:g}" for p in POINTS), "same class",
)  # fmt: skip


def cells(one: Summary) -> list[str]:
    """A summary as text, column by column."""
    return [
        f"{one.pruned:.0%}" if one.pruned else "",
        one.rule.replace("_", " "),
        "" if one.rule == "original" else f"{one.amount:g}",
        str(one.networks),
        f"{one.share:.1%}",
        "" if one.flops is None else f"{one.flops:.1%}",
        f"{one.accuracy:.4f}",
        f"{one.balanced:.4f}",
        f"{one.loss:.2f}",
        *(f"{share:.2f}" for share in one.within),
        f"{one.agreement:.3f}",
    ]


def _proven(found: list[dict[str, int]]) -> str:
    """Says how many units are provably linear."""
    if not found:
        return ""
    total = {name: sum(counts[name] for counts in found) for name in found[0]}
    shares = {name: f"{number / total['units']:.2%}" for name, number in total.items()}
    return (
        f"\nOf {total['units']} units {total['static']} ({shares['static']}) are linear by the "
        f"signs of their weights; on the box of the training rows {total['active']} "
        f"({shares['active']}) are proven to be always on, {total['inactive']} "
        f"({shares['inactive']}) always off, {total['undecided']} ({shares['undecided']}) are "
        "undecided.\n"
    )


def markdown(rows: list[Row]) -> str:
    """Returns the summary as Markdown, with what failed."""
    table = [list(COLUMNS), *map(cells, summarise(rows))]
    told = [any(column) for column in zip(*table[1:], strict=True)] or [True] * len(COLUMNS)
    table = [
        [cell for cell, any_told in zip(line, told, strict=True) if any_told] for line in table
    ]
    text = tabulated(table[0], table[1:]) + "\n"
    originals = [r for r in good(rows) if r["rule"] == "original" and not pruned_in(r)]
    known = {task_of(row) for row in originals}
    alone = {task_of(row) for row in good(rows)} - known
    if alone:
        text += f"\nLeft out, as the network that wasn't pruned isn't here: {len(alone)} tasks.\n"
    left_out = [r for r in originals if not learnt(r)]
    if left_out:
        tasks = ", ".join(sorted({" ".join(map(str, r["task"].values())) for r in left_out}))
        text += f"\nLeft out, as the network answers with one class: {tasks}.\n"
    text += _proven([r["proven"] for r in originals if "proven" in r and learnt(r)])
    failures = [row for row in rows if "failure" in row]
    for row in failures:
        what = "" if row["rule"] == NETWORK else f", {row['rule']} {row['amount']:g}"
        text += f"\nFailed: {row['task']}{what}: {row['failure']}\n"
    return text
