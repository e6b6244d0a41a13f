"""In which dtypes a function computes with its parameters: they may be cast on their way."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.chains.view import View
from linjax.program import precision, pytree
from linjax.program.pytree import Flat, Path


def computed_dtypes(found: View) -> dict[Path, frozenset[Any]]:
    """Returns the dtypes of all leaves where operations read them, by path.

    Leaves that folding adds beside a kernel are cast as the kernel is.

    Args:
      found: the network's chains, for the parameters' dtypes.
    """
    program, paths = found.program, found.program.network.paths
    avals = program.layout.program.avals
    dtypes: dict[Path, frozenset[Any]] = {}
    for op in program.ops:
        if program.seen(op.outputs[0]) is not None:
            continue
        for ref in op.inputs:
            view = program.seen(ref)
            if view is not None:
                path = paths[view.leaf]
                dtypes[path] = dtypes.get(path, frozenset()) | {avals[ref.id].dtype}  # type: ignore[union-attr]
    for name, own in found.maps.items():
        affine, result = found.graph.affine(name), program.ops[own.at].outputs[0]
        dtypes |= dict.fromkeys(map(affine.extra, ("linear", "residual", "down")),
                                dtypes[affine.kernel])  # fmt: skip
        if affine.bias is None:
            dtypes[affine.bias_path] = frozenset({avals[result.id].dtype})
    return dtypes


def coarsest(found: View | None, flat: Flat) -> dict[Path, Any]:
    """Returns for every floating leaf the coarsest of its own dtype and those computed in.

    Its own, where there is no program (``found``).
    """
    computed = {} if found is None else computed_dtypes(found)
    result = {}
    for path, leaf in flat.items():
        own = jnp.result_type(leaf)
        if pytree.is_floating(str(own)):
            both = [np.dtype(own), *computed.get(path, ())]
            result[path] = precision.coarsest(both)
    return result
