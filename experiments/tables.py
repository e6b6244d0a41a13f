"""The results as a table: Markdown in the run's folder, the same on the terminal."""

import pathlib

from rich import box
from rich.console import Console
from rich.table import Table

from experiments import files
from experiments.markdown import tabulated
from experiments.results import Row

COLUMNS = ("rule", "amount", "parameters", "share", "MFLOP", "accuracy", "balanced", "agreement")


def report(folder: pathlib.Path, rows: list[Row], heading: str) -> None:
    """Writes ``results.md`` and prints the same table."""
    order = list(dict.fromkeys(row["rule"] for row in rows))
    rows = sorted(rows, key=lambda row: order.index(row["rule"]))
    path = folder / "results.md"
    files.write(path, markdown(rows, heading).encode())
    table = Table(
        title=heading,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "rule" else "right", no_wrap=True)
    for rule in order:
        table.add_section()
        for row in rows:
            if row["rule"] == rule:
                table.add_row(*cells(row))
    Console().print(table)
    print(f"table: {path}")


def markdown(rows: list[Row], heading: str) -> str:
    """Returns the table in Markdown."""
    return f"# {heading}\n\n{tabulated(COLUMNS, [cells(row) for row in rows])}\n"


def cells(row: Row) -> list[str]:
    """Returns a row's figures as text.

    >>> cells({"rule": "size", "amount": 0.1, "parameters": 1234, "share": 0.1, "flops": 2.5e6,
    ...        "accuracy": 0.975, "balanced_accuracy": 0.97, "agreement": 1.0})
    ['size', '0.1', '1,234', '10.0%', '2.5', '97.50%', '97.00%', '100.00%']
    """
    return [
        row["rule"].replace("_", " "),
        "" if row["rule"] == "original" else f"{row['amount']:g}",
        f"{row['parameters']:,}",
        f"{row['share']:.1%}",
        f"{row['flops'] / 1e6:.3g}" if "flops" in row else "",
        *(f"{row[key]:.2%}" for key in ("accuracy", "balanced_accuracy", "agreement")),
    ]
