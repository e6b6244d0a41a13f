"""Whether the leaves of a pytree are a network's."""

import jax.numpy as jnp

from linjax.dims.network import Network
from linjax.dims.run import EXTRAS, RESIDUAL
from linjax.errors import StructureError
from linjax.program.pytree import Flat, is_floating, join, unknown


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
            raise StructureError(f"{join(path)}: {unknown(network.paths)}")
    for leaf, path in enumerate(network.paths):
        if path in flat:
            had = network.layout.program.avals[network.ref(leaf)].dtype
            dtype = jnp.result_type(flat[path])
            if is_floating(str(had)) != is_floating(str(dtype)):
                raise StructureError(f"{join(path)}: dtype {dtype}, expected {had}")
