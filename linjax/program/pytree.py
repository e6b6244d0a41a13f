"""Parameter pytrees as flat dicts from path to leaf, and back to nested dicts."""

import sys
from collections.abc import Container, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from linjax.errors import StructureError
from linjax.program.compat import key_name

Path = tuple[str, ...]
CONSTANTS = "linjax_constants"
"""Where a folded pytree has constants of the function that went along with its coordinates."""


def join(path: Path) -> str:
    """Returns a leaf's path as people write it: ``params/Dense_0/kernel``."""
    return "/".join(path)


def beside(path: Path, kind: str, taken: Container[Path]) -> Path:
    """A path for a leaf that stands beside another, free whatever names a network has.

    >>> beside(("w",), "bias", ())
    ('w_bias',)
    >>> beside(("w",), "bias", {("w",), ("w_bias",)})
    ('w_bias_',)
    """
    name = f"{path[-1]}_{kind}"
    while (*path[:-1], name) in taken:
        name += "_"
    return (*path[:-1], name)


class Leaf(NamedTuple):
    """A parameter leaf's path, shape and dtype."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


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


def contained(flat: Flat, like: Any) -> Any:
    """Returns leaves by path in the containers of another pytree of the same paths."""
    return jax.tree.unflatten(jax.tree.structure(like), [flat[path] for path in flatten(like)])


def _frozen(tree: Any, like: Any) -> Any:
    flax = sys.modules.get("flax.core")  # a FrozenDict is Flax's: then it has been imported
    if flax is not None and isinstance(like, flax.FrozenDict):
        return flax.FrozenDict(tree)
    if isinstance(tree, dict) and isinstance(like, dict):
        kinds = {str(key): value for key, value in like.items()}
        return {key: _frozen(value, kinds.get(key)) for key, value in tree.items()}
    return tree


def check_arrays(flat: Flat) -> None:
    """Checks that all leaves are arrays, of something that JAX computes with.

    Raises:
      StructureError: naming one that isn't, and the way out.
    """
    for path, leaf in flat.items():
        array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        if not (array or np.isscalar(leaf)) or isinstance(leaf, str | bytes):
            raise StructureError(
                f"{join(path) or 'params'}: a {type(leaf).__name__}, expected an array. "
                "Trace a function of the arrays alone; of "
                "an Equinox module: arrays, static = eqx.partition(model, eqx.is_array), then "
                "linjax.trace(lambda p, x: eqx.combine(p, static)(x), arrays, x)"
            )
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OUSMm":
            raise StructureError(f"{join(path)}: an array of {leaf.dtype}, expected one of numbers")


def leaves_of(params: Any) -> tuple[Leaf, ...]:
    """Describes the leaves of a pytree: path, shape, dtype.

    Raises:
      StructureError: naming a leaf that is no array, and the way out.
    """
    flat = flatten(params)
    check_arrays(flat)
    return tuple(
        Leaf(path, tuple(jnp.shape(leaf)), str(jnp.result_type(leaf)))
        for path, leaf in flat.items()
    )


def in_dtypes(leaves: tuple[Leaf, ...], flat: Flat) -> tuple[Leaf, ...]:
    """The traced leaves with the dtypes that the given parameters have."""
    now = {leaf.dtype: jnp.result_type(flat[leaf.path]) for leaf in leaves if leaf.path in flat}
    return tuple(
        leaf._replace(
            dtype=str(jnp.result_type(flat[leaf.path]) if leaf.path in flat
                      else now.get(leaf.dtype, leaf.dtype))
        )
        for leaf in leaves
    )  # fmt: skip


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


def unknown(paths: Iterable[Path]) -> str:
    """Says that a path isn't among a network's, and what these are."""
    near = ", ".join(sorted({join(p[:-1]) or join(p) for p in paths})[:8])
    return f"not a parameter of this network (it has {near})"
