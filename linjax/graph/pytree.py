"""Parameter pytrees as flat dicts from path to leaf, and back to nested dicts."""

import sys
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from linjax.dims.network import Network
from linjax.dims.run import EXTRAS, RESIDUAL
from linjax.errors import StructureError
from linjax.graph.compat import key_name
from linjax.graph.maps import Path, join
from linjax.graph.structure import Graph, Leaf

Flat = dict[Path, Any]


def flatten(params: Any) -> Flat:
    """Returns every leaf by its path of plain strings.

    Raises:
      StructureError: if two paths read the same; one would overwrite the other.
    """
    flat: Flat = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        path = tuple(key_name(key) for key in keys)
        if path in flat:
            raise StructureError(f"{join(path)}: two leaves have this path; rename a key")
        flat[path] = leaf
    return flat


def unflatten(flat: Flat, like: Any = None) -> Any:
    """Returns a nested dict, the form of every folded pytree.

    Args:
      flat: leaves by path.
      like: a pytree; where it holds Flax's ``FrozenDict``, the result does.
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return _frozen(tree, like)


def _frozen(tree: Any, like: Any) -> Any:
    flax = sys.modules.get("flax.core")  # a FrozenDict is Flax's: then it has been imported
    if flax is not None and isinstance(like, flax.FrozenDict):
        return flax.FrozenDict(tree)
    if isinstance(tree, dict) and isinstance(like, dict):
        kinds = {str(key): value for key, value in like.items()}
        return {key: _frozen(value, kinds.get(key)) for key, value in tree.items()}
    return tree


def leaves_of(params: Any) -> tuple[Leaf, ...]:
    """Describes the leaves of a pytree: path, shape, dtype.

    Raises:
      StructureError: naming a leaf that is no array, and the way out.
    """
    flat = flatten(params)
    for path, leaf in flat.items():
        array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        if (array or np.isscalar(leaf)) and not isinstance(leaf, str | bytes):
            continue
        raise StructureError(
            f"{join(path)}: a {type(leaf).__name__}, expected an array. "
            "Trace a function of the arrays alone; of "
            "an Equinox module: arrays, static = eqx.partition(model, eqx.is_array), then "
            "linjax.trace(lambda p, x: eqx.combine(p, static)(x), arrays, x)"
        )
    return tuple(
        Leaf(path, tuple(jnp.shape(leaf)), str(jnp.result_type(leaf)))
        for path, leaf in flat.items()
    )


def shapes_of(tree: Any) -> Any:
    """Returns a pytree with the leaves' shapes and dtypes in their place."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)


def is_floating(dtype: str) -> bool:
    """Whether a dtype's name is a floating one; random keys have dtypes NumPy doesn't know."""
    return dtype.startswith(("float", "bfloat"))


def cast(leaf: Any, dtype: Any) -> Any:
    """Returns a leaf in a dtype; random keys, which know no casts, as they are."""
    return leaf if leaf.dtype == dtype else leaf.astype(dtype)


def on_host(path: Path, leaf: Any) -> np.ndarray:
    """Returns a leaf in float64.

    Raises:
      StructureError: if its values aren't finite, naming the path.
    """
    value = np.asarray(leaf).astype(np.float64)
    if not np.isfinite(value).all():
        raise StructureError(f"{join(path)}: values aren't finite")
    return value


def on_device(value: Any, dtype: DTypeLike) -> Any:
    """Puts an array on the device, cast on the host: there no new shape compiles a program."""
    return jax.device_put(np.asarray(value, order="C").astype(dtype))


def same_structure(a: Any, b: Any) -> bool:
    """Whether two pytrees differ in their leaves only."""
    structure: Any = jax.tree.structure(a)
    return bool(structure == jax.tree.structure(b))


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
    known = {leaf.path: leaf for leaf in graph.leaves}
    for leaf in graph.leaves:
        if leaf.path in flat:
            value = flat[leaf.path]
            shape, dtype = tuple(jnp.shape(value)), jnp.result_type(value)
            if leaf.path not in foldable and shape != leaf.shape:
                raise StructureError(f"{join(leaf.path)}: shape {shape}, expected {leaf.shape}")
            if is_floating(leaf.dtype) != is_floating(str(dtype)):
                raise StructureError(f"{join(leaf.path)}: dtype {dtype}, expected {leaf.dtype}")
        elif leaf.path not in foldable:
            raise StructureError(f"{join(leaf.path)}: missing, expected shape {leaf.shape}")
    for path in flat:
        if path not in known and path not in foldable:
            raise StructureError(f"{join(path)}: {_unknown(known)}")


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


def check_known(network: Network, flat: Flat) -> None:
    """Checks that every leaf of a pytree is one of a network, or one that a fold put beside.

    Raises:
      StructureError: naming the first that is neither, or of whole numbers for floating ones.
    """
    known = {*network.paths, *map(network.constant, network.varying)}
    known |= {
        network.extra(n, kind) for n in range(len(network.paths)) for kind in (*EXTRAS, RESIDUAL)
    }
    for path in flat:
        if path not in known:
            raise StructureError(f"{join(path)}: {_unknown(network.paths)}")
    for leaf, path in enumerate(network.paths):
        if path in flat:
            had = network.layout.program.avals[network.ref(leaf)].dtype
            dtype = jnp.result_type(flat[path])
            if is_floating(str(had)) != is_floating(str(dtype)):
                raise StructureError(f"{join(path)}: dtype {dtype}, expected {had}")


def _unknown(paths: Iterable[Path]) -> str:
    near = ", ".join(sorted({join(p[:-1]) or join(p) for p in paths})[:8])
    return f"not a parameter of this network (it has {near})"
