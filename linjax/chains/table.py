"""The chains of a network as a table."""

from linjax.chains.structure import Graph
from linjax.report.table import grid


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
