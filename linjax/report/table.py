"""Plain-text tables, for people and for terminals."""

from collections.abc import Sequence


def grid(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lays out rows under a header; numbers to the right, words to the left."""
    cells = [list(header), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) or _number(str(row[i])) for row in rows)
        for i in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(w) if r else cell.ljust(w)
            for cell, w, r in zip(row, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    rule = "  ".join("─" * w for w in widths)
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def _number(text: str) -> bool:
    return text.strip("-+%.e0123456789,") == "" and any(c.isdigit() for c in text)
