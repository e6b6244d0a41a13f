"""In which dtypes a function computes with its parameters: they may be cast on their way."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from linjax.graph import pytree
from linjax.graph.analysis import Analysis
from linjax.graph.maps import Path
from linjax.graph.program import Ref
from linjax.graph.pytree import Flat
from linjax.graph.structure import Graph
from linjax.graph.views import find_views


def computed_dtypes(graph: Graph, found: Analysis) -> dict[Path, frozenset[Any]]:
    """Returns the dtypes of all leaves where operations read them, by path.

    Leaves that folding adds beside a kernel are cast as the kernel is.

    Args:
      graph: the network.
      found: its program, analysed, for the parameters' dtypes.
    """
    program, views = found.program, find_views(found.program)
    dtypes: dict[Path, frozenset[Any]] = {}
    for op in program.ops:
        if op.outputs[0].id in views.leaf:
            continue
        for ref in (o.id for o in op.inputs if isinstance(o, Ref) and o.id in views.leaf):
            path = found.leaves[views.leaf[ref]].path
            dtypes[path] = dtypes.get(path, frozenset()) | {program.avals[ref].dtype}
    for name, dot in found.dots.items():
        affine, result = graph.affine(name), program.ops[dot.at].outputs[0]
        dtypes |= dict.fromkeys(map(affine.extra, ("linear", "residual", "down")),
                                dtypes[affine.kernel])  # fmt: skip
        if affine.bias is None:
            dtypes[affine.bias_path] = frozenset({program.avals[result.id].dtype})
    return dtypes


def coarsest(graph: Graph, found: Analysis | None, flat: Flat) -> dict[Path, Any]:
    """Returns for every floating leaf the coarsest of its own dtype and those computed in.

    Its own, where there is no program (``found``).
    """
    computed = {} if found is None else computed_dtypes(graph, found)
    result = {}
    for path, leaf in flat.items():
        own = jnp.result_type(leaf)
        if pytree.is_floating(str(own)):
            both = [np.dtype(own), *computed.get(path, ())]
            result[path] = max(both, key=lambda dtype: float(jnp.finfo(dtype).eps))
    return result
