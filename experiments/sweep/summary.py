"""The rows of a sweep, summarised over tasks and seeds."""

from typing import Any, NamedTuple

import numpy as np

from experiments import rules
from experiments.markdown import tabulated
from experiments.results import Row
from experiments.sweep.journal import NETWORK

POINTS = (0.0, 0.5, 1.0, 2.0)
ROUNDING = 1e-9


class Summary(NamedTuple):
    """A rule at an amount, over all networks that were trained alike.

    Attributes:
      pruned: share of the units that training has pruned.
      rule: the rule.
      amount: its amount.
      rows: number of calibration rows, where the sweep varies it; else 0.
      networks: how many networks it was measured on.
      share: mean share of the original's parameters.
      flops: mean share of its floating point operations; None where these weren't counted.
      accuracy: mean accuracy.
      balanced: mean balanced accuracy.
      loss: mean loss of accuracy against the original, in points.
      within: shares of networks within :data:`POINTS` of the original.
      agreement: mean share of predictions that are the original's.
      others: further means by name, of what all rows have: ``perplexity``, ``divergence`` from
        the original in nats, ``spread``, the standard deviation of the agreement, ``bytes`` as
        a share, and by batch size how many times as fast as the original.
    """

    pruned: float
    rule: str
    amount: float
    rows: int
    networks: int
    share: float
    flops: float | None
    accuracy: float
    balanced: float
    loss: float
    within: tuple[float, ...]
    agreement: float
    others: dict[str, float]


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
            key = (pruned_in(row), row["rule"], row["amount"], _calibrated(row))
            found.setdefault(key, []).append((original, row))
    return [_summary(key, found[key]) for key in sorted(found, key=place)]


def place(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sorts (pruned, rule, amount, …): rules in their usual order, large amounts first."""
    return key[0], rules.place(key[1]), -key[2], *key[3:]


def _calibrated(row: Row) -> int:
    return int(row["task"].get("calibration.rows", 0))


def _others(pairs: list[tuple[Row, Row]]) -> dict[str, float]:
    rows = [after for _, after in pairs]
    found = {
        name: float(np.mean([row[name] for row in rows]))
        for name in ("perplexity", "divergence")
        if all(name in row for row in rows)
    }
    if len(rows) > 1:
        found["spread"] = float(np.std([row["agreement"] for row in rows]))
    if all("bytes" in row for pair in pairs for row in pair):
        found["bytes"] = float(np.mean([b["bytes"] / a["bytes"] for a, b in pairs]))
    for size in rows[0].get("latency", {}):
        ratios = [whole / small for row in rows for small, whole in [row["latency"][size]]]
        found[f"speed, {size}"] = float(np.median(ratios))
    return found


def _summary(key: tuple[float, str, float, int], pairs: list[tuple[Row, Row]]) -> Summary:
    pruned, rule, amount, rows = key
    points = np.array([100 * (before["accuracy"] - after["accuracy"]) for before, after in pairs])

    def mean(name: str) -> float:
        return float(np.mean([after[name] for _, after in pairs]))

    return Summary(
        pruned=pruned,
        rule=rule,
        amount=amount,
        rows=rows,
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
        others=_others(pairs),
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
    "pruned", "rule", "amount", "rows", "networks", "share", "FLOPs", "accuracy", "balanced",
    "loss, points", *(f"within {p:g}" for p in POINTS), "same class",
)  # fmt: skip
SHOWN = {"spread": ".3f", "divergence": ".3g", "perplexity": ".2f", "bytes": ".1%"}


def cells(one: Summary) -> list[str]:
    """A summary as text, column by column."""
    return [
        f"{one.pruned:.0%}" if one.pruned else "",
        one.rule.replace("_", " "),
        "" if one.rule.startswith("original") else f"{one.amount:g}",
        f"{one.rows}" if one.rows else "",
        str(one.networks),
        f"{one.share:.1%}",
        "" if one.flops is None else f"{one.flops:.1%}",
        f"{one.accuracy:.4f}",
        f"{one.balanced:.4f}",
        f"{one.loss:.2f}",
        *(f"{share:.2f}" for share in one.within),
        f"{one.agreement:.3f}",
    ]


def table_of(rows: list[Row]) -> list[list[str]]:
    """The columns' names and the cells of every summary, without columns that say nothing."""
    found = summarise(rows)
    names = list(dict.fromkeys(name for one in found for name in one.others))
    table = [[*COLUMNS, *names]]
    for one in found:
        others = [
            format(one.others[name], SHOWN.get(name, ".2f")) if name in one.others else ""
            for name in names
        ]
        table.append([*cells(one), *others])
    told = [any(column) for column in zip(*table[1:], strict=True)] or [True] * len(table[0])
    return [[c for c, some in zip(line, told, strict=True) if some] for line in table]


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
    table = table_of(rows)
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
