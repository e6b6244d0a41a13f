"""Sites as a file tells of them: what makes a dimension, what reads it, what happens between."""

from typing import NamedTuple

from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.sites import Product
from linjax.dims.values import Role
from linjax.program.pytree import join
from linjax.report.table import grid


class Outline(NamedTuple):
    """A dimension that folds.

    Attributes:
      name: the site's name.
      width: number of coordinates in the traced network.
      form: what may be done with them.
      made: paths of the leaves that make it.
      read: paths of the leaves that read it.
      steps: names of the operations on the way that aren't linear, in alphabetical order.
    """

    name: str
    width: int
    form: str
    made: tuple[str, ...]
    read: tuple[str, ...]
    steps: tuple[str, ...]

    def fits(self, other: "Outline", exactly: bool) -> bool:
        """Whether another trace found the same site; operations have names of JAX's version."""
        same = (self.width, self.made, self.read) == (other.width, other.made, other.read)
        return same and (not exactly or self.steps == other.steps)


def outlines(network: Network) -> tuple[Outline, ...]:
    """Describes the sites of a network."""
    layout = network.layout
    names = {number(op): op.name for op in layout.program.all_ops()}

    def paths(products: tuple[Product, ...]) -> tuple[str, ...]:
        return tuple(sorted({join(network.paths[p.leaf]) for p in products if p.leaf is not None}))

    def steps(dim: int) -> tuple[str, ...]:
        bent = (Role.BENT, Role.GATED, Role.POOLED)
        return tuple(sorted({names[m.op] for m in layout.marks[dim] if m.role in bent}))

    return tuple(
        Outline(
            site.name, site.width, site.form.value, paths(site.makers), paths(site.readers),
            steps(site.dim),
        )
        for site in network.sites
    )  # fmt: skip


def describe(sites: tuple[Outline, ...], parameters: int) -> str:
    """Tabulates the sites that a file tells of."""
    rows = [(one.name, one.width, one.form, _some(one.made), _some(one.read)) for one in sites]
    table = grid(("site", "width", "kind", "made by", "read by"), rows)
    return f"{len(sites)} foldable sites, {parameters:,} parameters\n{table}"


def _some(paths: tuple[str, ...]) -> str:
    return ", ".join(paths) if len(paths) <= 2 else f"{paths[0]} and {len(paths) - 1} more"
