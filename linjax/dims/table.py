"""A network's sites as a table."""

import math

from linjax.dims.coverage import leaf_sizes, reached
from linjax.dims.network import Network
from linjax.dims.sites import Product, Site
from linjax.report.table import grid


def describe(network: Network) -> str:
    """Sites with what makes and reads them, what share of the parameters they reach, refusals."""
    rows = [_row(network, site) for site in network.sites]
    header = ("site", "width", "kind", "times", "made by", "read by", "linear")
    sizes = leaf_sizes(network)
    lines = [f"{len(network.foldable)} foldable sites, {sum(sizes):,} parameters"]
    if rows:
        share = reached(network, network.foldable, sizes)
        lines += [grid(header, rows), f"{share:.1%} of the parameters can fold"]
    if len(rows) > len(network.foldable):
        lines.append(
            "blocks (heads, groups), and normed sites left alone, are found, but not folded"
        )
    if network.refusals:
        lines += ["left alone:", grid(("layer", "reason"), network.refusals)]
    return "\n".join(lines)


def _row(network: Network, site: Site) -> tuple[str, ...]:
    repeats = math.prod(network.layout.traced[d] for d in site.beside)
    made, read = (_kernels(network, own) for own in (site.makers, site.readers))
    return (
        site.name,
        str(site.width),
        site.form.value,
        str(repeats) if repeats > 1 else "",
        _some(made),
        _some(read),
        "yes" if site.linear else "",
    )


def _kernels(network: Network, products: tuple[Product, ...]) -> list[str]:
    own = {"a computed kernel" if p.leaf is None else network.names[p.leaf] for p in products}
    return sorted(own)


def _some(names: list[str]) -> str:
    if len(names) <= 2:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1} more"
