"""A traced network with its sites: what running, measuring and folding go by."""

import dataclasses
from typing import Any

import jax
import numpy as np

from linjax.dims import merging
from linjax.dims.layout import Layout, lay_out, number
from linjax.dims.sites import Product, Refusal, Site, find_sites, products_of
from linjax.dims.values import Role, Source
from linjax.graph.maps import Path, join
from linjax.program.flat import Const, Ref

CONSTANTS = "linjax_constants"
"""Where a folded pytree has constants of the network that went along with its coordinates."""


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A traced network.

    Attributes:
      layout: its program and dimensions.
      paths: of the parameter leaves, in order.
      names: of the layers that they belong to.
      sites: what can become smaller.
      refusals: what can't, and why.
      kernels: by operation, the products whose kernels are leaves.
      merges: by operation and operand, the sites whose linear coordinates join there, with the
        values that they come from.
      repeats: dimensions that others are repeated along.
      varying: constants whose entries differ along a site's dimension, by operation and operand.
    """

    layout: Layout
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    sites: tuple[Site, ...]
    refusals: tuple[Refusal, ...]
    kernels: dict[int, Product]
    merges: dict[tuple[int, int], tuple[tuple[int, int], ...]]
    repeats: frozenset[int]
    varying: tuple[tuple[int, int], ...]

    def site(self, name: str) -> Site:
        """The site of this name."""
        return next(site for site in self.sites if site.name == name)

    def ref(self, leaf: int) -> int:
        """The number of a leaf's value."""
        return self.layout.program.inputs[leaf].id

    def extra(self, leaf: int, kind: str) -> Path:
        """Path of a leaf that a fold puts beside a kernel."""
        path = self.paths[leaf]
        return (*path[:-1], f"{path[-1]}_{kind}")

    def constant(self, key: tuple[int, int]) -> Path:
        """Path of a constant that went along with coordinates."""
        return (CONSTANTS, str(self.varying.index(key)))

    def made_axes(self, op: int) -> tuple[int, ...]:
        """Axes of a product's result that are its kernel's."""
        product = self.kernels[op]
        held = self.layout.operand(self.layout.makers[op], 1 - product.data)
        own = held.dims() - held.read
        spans = self.layout.values[op].spans
        return tuple(n for n, s in enumerate(spans) if own & set(s.dims()))


def analyse(apply_fn: Any, params: Any, inputs: tuple[Any, ...], paths: tuple[Path, ...]) -> Network:
    """Traces a network and finds its sites."""
    layout = lay_out(apply_fn, params, inputs)
    names = layer_names(paths)
    sites, refusals = find_sites(layout, names)
    ops = {number(op): op for op in layout.program.all_ops()}
    kernels = {}
    for marks in layout.marks.values():
        for role in (Role.MADE, Role.READ):
            for product in products_of(layout, ops, marks, role):
                if product.leaf is not None and ops[product.op].name in _PRODUCTS:
                    kernels[product.op] = product
    merges: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for site in sites:
        for merge in merging.merges(layout, site.dim) or () if site.linear else ():
            merges.setdefault((merge.op, merge.place), []).append((site.dim, merge.root))
    dims = {site.dim for site in sites}
    return Network(
        layout=layout,
        paths=paths,
        names=names,
        sites=sites,
        refusals=refusals,
        kernels=kernels,
        merges={key: tuple(own) for key, own in merges.items()},
        repeats=frozenset(d for site in sites for d in site.beside),
        varying=_varying(layout, dims),
    )


_PRODUCTS = ("dot_general", "conv_general_dilated")


def _varying(layout: Layout, dims: set[int]) -> tuple[tuple[int, int], ...]:
    found = []
    for op in layout.program.all_ops():
        for place, operand in enumerate(op.inputs):
            if isinstance(operand, Const):
                held = layout.constants[number(op), place]
                differs = zip(held.spans, held.varies, strict=True)
                if any(v and dims & set(s.dims()) for s, v in differs):
                    found.append((number(op), place))
    return tuple(found)


def layer_names(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """Shortest readable names of the layers that leaves belong to, one for each leaf."""
    common = {path[0] for path in paths if len(path) > 1}
    skip = 1 if common == {"params"} and all(len(p) > 2 or len(p) == 1 for p in paths) else 0
    return tuple(join(p[skip:-1]) if len(p) > skip + 1 else join(p[skip:]) for p in paths)


def shapes(tree: Any) -> Any:
    """A pytree with the leaves' shapes and dtypes in their place."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)


__all__ = ["CONSTANTS", "Network", "Ref", "Source", "analyse", "layer_names", "shapes"]
