"""What a report's page is made of."""

from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """A drawing with its heading, legend and caption; ``wide`` takes a line of its own."""

    title: str
    drawing: str
    caption: str
    legend: str = ""
    wide: bool = False


class Table(NamedTuple):
    """A table; the first ``words`` columns are text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
