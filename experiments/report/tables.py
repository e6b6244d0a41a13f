"""A run's figures as a table."""

from experiments.report.lines import tasks
from experiments.report.parts import Table
from experiments.report.runs import Run, task_of
from experiments.results import Row
from experiments.sweep import summary
from experiments.tables import COLUMNS, cells


def table(run: Run) -> Table:
    """The run's figures: its rows, or over many tasks their summary."""
    if tasks(run) > 1:
        return Table(
            summary.COLUMNS, [summary.cells(one) for one in summary.summarise(run.rows)], 2
        )
    columns = (*COLUMNS[:-1], "same class", "predicted error", "measured error")
    order = list(dict.fromkeys(row["rule"] for row in run.rows))
    rows = sorted(run.rows, key=lambda row: (order.index(row["rule"]), -row["amount"]))
    return Table(columns, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    def maybe(name: str) -> str:
        value = row.get(name)
        return "" if value is None or row["rule"] == "original" else f"{value:.4f}"

    return [*cells(row), maybe("predicted"), maybe("error")]


def settings_of(run: Run) -> list[tuple[str, str]]:
    """What a run's networks differ in, and how often each value occurs."""
    found: dict[str, dict[str, None]] = {}
    for row in run.rows:
        for name, value in task_of(row).items():
            found.setdefault(name, {})[str(value)] = None
    return [(name, ", ".join(values)) for name, values in found.items()]
