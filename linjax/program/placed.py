"""Where arrays are: those of NumPy as JAX's, those on meshes where JAX finds shardings itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from linjax.errors import LinjaxError


def placed(array: Any) -> jax.Array:
    """Returns what ``jnp.asarray`` does, which compiles a program for each shape of NumPy's arrays.

    The numbers are copied, as they are there: whoever gave them may change theirs.

    >>> placed(np.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    """
    return jax.device_put(np.array(array)) if type(array) is np.ndarray else jnp.asarray(array)


def inputs_of(batch: Any) -> tuple[Any, ...]:
    """What a function takes after its parameters: a batch is that, or all there is of it."""
    own: tuple[Any, ...] = automatic(batch if isinstance(batch, tuple) else (batch,))
    return own


def automatic(tree: Any) -> Any:
    """Arrays on meshes whose axes are explicit (``jax.make_mesh``) on such as are automatic.

    There a program says nothing of how what it makes is sharded; nothing is copied between
    devices, and a tree without such arrays is returned itself. Where a mesh of explicit axes is
    set (``jax.set_mesh``) programs say it after all, and arrays stay on it: whole ones, since
    sums over those in parts would have to say it too.
    """

    def put(leaf: Any) -> Any:
        own = getattr(leaf, "sharding", None)
        if not isinstance(own, NamedSharding) or not isinstance(leaf, jax.Array):
            return leaf
        mesh = automatic_mesh(own.mesh)
        return leaf if mesh is own.mesh else jax.device_put(leaf, NamedSharding(mesh, own.spec))

    leaves, structure = jax.tree.flatten(tree)
    if AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        for leaf in leaves:
            _whole(leaf)
        return tree
    found = [put(leaf) for leaf in leaves]
    same = all(new is old for new, old in zip(found, leaves, strict=True))
    return tree if same else jax.tree.unflatten(structure, found)


def _whole(leaf: Any) -> None:
    if isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated:
        raise LinjaxError(
            f"an array of shape {leaf.shape} is sharded ({leaf.sharding}) where jax.set_mesh has "
            "set a mesh of explicit axes: call this outside of jax.set_mesh (what was traced "
            "within serves there), or give arrays that aren't sharded"
        )


def automatic_mesh(mesh: Any) -> Any:
    """A mesh with the same devices and names, whose axes are automatic; itself if they are."""
    if not isinstance(mesh, Mesh) or AxisType.Explicit not in mesh.axis_types:
        return mesh
    return Mesh(mesh.devices, mesh.axis_names)
