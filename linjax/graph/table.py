"""Plain-text tables, for people and for terminals."""

import functools
from collections.abc import Sequence

from linjax.graph.structure import ChannelSite, Graph


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
    count = len(graph.sites) + len(graph.channels)
    text = [f"{count} foldable sites, {total:,} parameters"]
    if count:
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
        rows = [*map(functools.partial(_channel_row, graph), graph.channels), *rows]
        text.append(grid(("site", "reads", "units", "activation", "consumers"), rows))
    if graph.heads:
        text.append("values of attention, at lower rank for each head:")
        values = [(one.name, one.inputs, f"{one.heads} × {one.width}", one.out)
                  for one in graph.heads]  # fmt: skip
        text.append(grid(("values", "reads", "features", "read by"), values))
    if graph.refusals:
        text.append("left alone:")
        text.append(grid(("layer", "reason"), [tuple(r) for r in graph.refusals]))
    return "\n".join(text)


def _channel_row(graph: Graph, site: ChannelSite) -> tuple[object, ...]:
    conv = graph.convolution(site.producer)
    window = "×".join(map(str, conv.window))
    readers = ", ".join(reading.consumer for reading in site.readings)
    steps = ", ".join([site.activation.name, *site.steps])
    reads = f"{conv.inputs} in {window}" + (f", {conv.groups} groups" if conv.groups > 1 else "")
    return site.name, reads, site.width, steps, readers


def _counts(dtype: str) -> bool:
    """Whether a leaf's entries are parameters, as in :func:`linjax.count`."""
    return dtype.startswith(("float", "bfloat", "complex"))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
