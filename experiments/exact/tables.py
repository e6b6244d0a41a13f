"""The results of exact rewriting as Markdown tables, beside what was published."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import files
from experiments.markdown import tabulated
from experiments.results import Row

PUBLISHED = {
    (25, 1e-3): ("95.76%", "22%"),
    (25, 2e-4): ("97.24%", "8.3%"),
    (50, 1e-3): ("96.05%", "29.4%"),
    (50, 2e-4): ("97.81%", "15.1%"),
    (100, 5e-4): ("97.14%", "30.8%"),
    (100, 1e-4): ("98.14%", "14.9%"),
}
"""Accuracy and share of units removed by width and L1: means of 31 networks.

Of Serra, Kumar & Ramalingam, Lossless compression of deep neural networks, 2020, arXiv
2001.00218. Without L1 nothing was removed.
"""

REMOVAL = (
    "width", "L1", "second penalty", "networks", "accuracy", "2020: accuracy", "2020: units",
    "units: their rules", "units: ours", "parameters: their rules", "parameters: ours",
    "same class", "undecided", "verified", "certify, s",
)  # fmt: skip
"""Units and parameters are shares removed; verified are networks, all of whose verdicts hold."""

SCALING = (
    "hidden", "units", "active", "inactive", "unstable", "undecided", "verified",
    "certify, s", "check, s", "a program, s", "ratio",
)  # fmt: skip


def removal(rows: Sequence[Row], config: Any) -> str:
    """Tabulates the means over seeds, in the order of the config's cases."""
    lines = []
    for width, l1, extra in config.cases:
        same = [r for r in rows if (r["width"], r["l1"], r["extra"]) == (width, l1, extra)]
        if same:
            lines.append([f"{width}", f"{l1:g}", f"{extra:g}", *_means(same, (width, l1))])
    return tabulated(REMOVAL, lines)


def _means(rows: list[Row], published: tuple[int, float]) -> list[str]:
    accuracy, units = PUBLISHED.get(published, ("", ""))

    def share(name: str, total: str) -> str:
        return f"{np.mean([row[name] / row[total] for row in rows]):.1%}"

    return [
        f"{len(rows)}",
        f"{np.mean([row['accuracy'] for row in rows]):.2%}",
        accuracy,
        units,
        share("published_units", "units"),
        share("ours_units", "units"),
        share("published_parameters", "parameters"),
        share("ours_parameters", "parameters"),
        f"{min(min(row['published_agreement'], row['ours_agreement']) for row in rows):.2%}",
        f"{sum(row['undecided'] for row in rows)}",
        f"{sum(row['verified'] for row in rows)}",
        f"{np.mean([row['seconds'] for row in rows]):.1f}",
    ]


def scaling(rows: Sequence[Row]) -> str:
    """Tabulates verdicts and times, a network a line."""
    counts = ("units", "active", "inactive", "unstable", "undecided")
    lines = [
        [
            "-".join(map(str, row["hidden"])),
            *(str(row[name]) for name in counts),
            "yes" if row["verified"] else "NO",
            f"{row['certify']:.1f}",
            f"{row['check']:.1f}",
            f"{row['program']:.2f}",
            f"{row['ratio']:.0f}",
        ]
        for row in rows
    ]
    return tabulated(SCALING, lines)


RANKS = ("kernel", "units", "rank", "99% of energy", "90% of energy")
QUANTISED = ("bits", "accuracy", "units lumped, by layer", "parameters left", "same class")
PLANTED = (
    "units in a combination", "removed of 128", "networks", "accuracy", "as published",
    "fold at that size", "lump", "removed by lump",
)  # fmt: skip


def lumping(rows: Sequence[Row]) -> str:
    """Tabulates ranks of kernels, quantised kernels, and planted units, means over seeds."""
    parts = [_ranks(next(row for row in rows if row["experiment"] == "ranks"))]
    parts.append(_quantised([row for row in rows if row["experiment"] == "quantised"]))
    parts.append(_planted([row for row in rows if row["experiment"] == "planted"]))
    return "\n\n".join(parts)


def _ranks(row: Row) -> str:
    columns = ("units", "rank", "rank 99%", "rank 90%")
    lines = [
        [name, *(str(found[column]) for column in columns)]
        for name, found in row["kernels"].items()
    ]
    return tabulated(RANKS, lines)


def _quantised(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        pairs = zip(row["layers"], row["units"], row["kept"], strict=True)
        lumped = ", ".join(f"{name}: {before - after} of {before}" for name, before, after in pairs)
        share = row["lumped parameters"] / row["parameters"]
        figures = [f"{row['accuracy']:.2%}", lumped, f"{share:.1%}", f"{row['agreement']:.2%}"]
        lines.append([str(row["bits"]), *figures])
    return tabulated(QUANTISED, lines)


def _planted(rows: list[Row]) -> str:
    lines = []
    for terms, removed in sorted({(row["terms"], row["removed"]) for row in rows}):
        same = [row for row in rows if (row["terms"], row["removed"]) == (terms, removed)]
        means = [
            f"{np.mean([row[name] for row in same]):.2%}"
            for name in ("accuracy", "published_accuracy", "fold_accuracy", "lump_accuracy")
        ]
        gone = f"{np.mean([row['lump_units'] for row in same]):.1f}"
        lines.append([str(terms), str(removed), str(len(same)), *means, gone])
    return tabulated(PLANTED, lines)


def planted_sentence(row: Row) -> str:
    """Returns what a run says about one network with planted units."""
    return (
        f"{row['removed']} combinations of {row['terms']}, seed {row['seed']}: accuracy "
        f"{row['accuracy']:.4f}; without them {row['published_accuracy']:.4f} as published, "
        f"{row['fold_accuracy']:.4f} by fold at that size; lump removes {row['lump_units']}"
    )


def sentence(row: Row) -> str:
    """Returns what a run says about one network."""
    return (
        f"width {row['width']}, L1 {row['l1']:g}, extra {row['extra']:g}, seed {row['seed']}: "
        f"accuracy {row['accuracy']:.4f}; removed {row['published_parameters']:,} parameters by "
        f"the published rules, {row['ours_parameters']:,} by ours, of {row['parameters']:,} "
        f"[{row['seconds']:.1f} s]"
    )


def report(folder: pathlib.Path, table: str, heading: str) -> None:
    """Writes ``results.md`` and prints the table."""
    path = folder / "results.md"
    files.write(path, f"# {heading}\n\n{table}\n".encode())
    print(f"{table}\ntable: {path}")
