"""Plain-text tables, for people and for terminals."""

from collections.abc import Sequence

from linjax.graph.structure import Graph


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


def describe(graph: Graph) -> str:
    """Tabulates the sites of a network, and the refusals with their reasons."""
    total = sum(_size(leaf.shape) for leaf in graph.leaves if _counts(leaf.dtype))
    text = [f"{len(graph.sites)} foldable sites, {total:,} parameters"]
    if graph.sites:
        rows: list[tuple[object, ...]] = [
            (
                site.name,
                sum(graph.affine(name).inputs for name in (site.producer, *site.terms)),
                site.width,
                site.activation.name,
                ", ".join(site.consumers),
            )
            for site in graph.sites
        ]
        text.append(grid(("site", "reads", "units", "activation", "consumers"), rows))
    if graph.refusals:
        text.append("left alone:")
        text.append(grid(("layer", "reason"), [tuple(r) for r in graph.refusals]))
    return "\n".join(text)


def _counts(dtype: str) -> bool:
    """Whether a leaf's entries are parameters, as in :func:`linjax.count`."""
    return dtype.startswith(("float", "bfloat", "complex"))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
