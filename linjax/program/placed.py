"""Where arrays are: those of NumPy as JAX's, those on meshes where JAX finds shardings itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding


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

    There a program says nothing of how what it makes is sharded; nothing is copied between devices.
    """

    def put(leaf: Any) -> Any:
        own = getattr(leaf, "sharding", None)
        if not isinstance(own, NamedSharding) or not isinstance(leaf, jax.Array):
            return leaf
        mesh = automatic_mesh(own.mesh)
        return leaf if mesh is own.mesh else jax.device_put(leaf, NamedSharding(mesh, own.spec))

    return jax.tree.map(put, tree)


def automatic_mesh(mesh: Any) -> Any:
    """A mesh with the same devices and names, whose axes are automatic; itself if they are."""
    if not isinstance(mesh, Mesh) or AxisType.Explicit not in mesh.axis_types:
        return mesh
    return Mesh(mesh.devices, mesh.axis_names)
