"""Whether a pytree is that of a network's chains, original or folded."""

import jax.numpy as jnp

from linjax.chains.structure import Graph
from linjax.errors import StructureError
from linjax.program.pytree import Flat, Path, is_floating, join, unknown


def is_original(graph: Graph, flat: Flat) -> bool:
    """Whether every leaf has the path and the shape that it had when traced."""
    if len(flat) != len(graph.leaves):
        return False
    return all(
        leaf.path in flat and tuple(jnp.shape(flat[leaf.path])) == leaf.shape
        for leaf in graph.leaves
    )


def check_leaves(graph: Graph, flat: Flat) -> None:
    """Checks that a pytree is that of the traced network, or one folded from it.

    Raises:
      StructureError: naming the first leaf that is missing, unknown, or of a wrong dtype
        or, outside the foldable part, of a wrong shape.
    """
    foldable = foldable_paths(graph)
    leaves = (*graph.leaves, *graph.computed)
    known = {leaf.path: leaf for leaf in leaves}
    for path in graph.gone:
        if path in flat:
            raise StructureError(
                f"{join(path)}: kernels are computed of it by the network's function; load the "
                "network with that, linjax.load(path, apply_fn)"
            )
    for leaf in leaves:
        if leaf.path in flat:
            value = flat[leaf.path]
            shape, dtype = tuple(jnp.shape(value)), jnp.result_type(value)
            if leaf.path not in foldable and shape != leaf.shape:
                raise StructureError(f"{join(leaf.path)}: shape {shape}, expected {leaf.shape}")
            if is_floating(leaf.dtype) != is_floating(str(dtype)):
                raise StructureError(f"{join(leaf.path)}: dtype {dtype}, expected {leaf.dtype}")
        elif leaf.path not in foldable and leaf.path not in graph.gone:
            raise StructureError(f"{join(leaf.path)}: missing, expected shape {leaf.shape}")
    for path in flat:
        if path not in known and path not in foldable:
            raise StructureError(f"{join(path)}: {unknown(known)}")


def foldable_paths(graph: Graph) -> frozenset[Path]:
    """Paths of the leaves that folding may narrow, remove or add."""
    names = {name for chain in graph.chains for name in chain.maps}
    paths: set[Path] = set()
    for affine in graph.affines:
        if affine.name in names:
            paths.add(affine.kernel)
            paths.add(affine.bias_path)
            paths.update(affine.extra(kind) for kind in ("linear", "residual", "down"))
            paths.update(() if affine.scaling is None else affine.scaling.leaves)
    for site in graph.sites:
        paths.update(site.unit_leaves)
    return frozenset(paths)
