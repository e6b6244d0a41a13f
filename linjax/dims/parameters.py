"""Values of a network that depend on its parameters alone."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.leaves import leaf_of
from linjax.dims.network import Network
from linjax.dims.run import Run
from linjax.dims.sizes import Flat, read_sizes
from linjax.program.flat import Ref, needed

Array = Any


def parameters(network: Network, flat: Flat, wanted: Iterable[int]) -> dict[int, Array]:
    """Values that depend on parameters alone, in float64, by their numbers.

    Args:
      network: the traced network.
      flat: its parameters by path.
      wanted: numbers of values outside of scans.
    """
    sizes, program = read_sizes(network, flat), network.layout.program
    run = Run(network, sizes, frozenset(), {})
    refs = tuple(map(Ref, wanted))
    with jax.enable_x64(True):
        for n, ref in enumerate(program.inputs[: len(network.paths)]):
            run.put(ref, _wide(leaf_of(network, n, flat, sizes)))
        for op in needed(program.ops, refs):
            values = [_wide(run.read(op, place, o)) for place, o in enumerate(op.inputs)]
            dtype = op.params.get("new_dtype")
            cast = op.name == "convert_element_type" and jnp.issubdtype(dtype, jnp.floating)
            found = tuple(values) if cast else run.bind(op, values)
            run.env.update({ref.id: x for ref, x in zip(op.outputs, found, strict=True)})
        return {ref.id: np.asarray(run.env[ref.id], np.float64) for ref in refs}


def _wide(value: Array) -> Array:
    """A value in float64, if it is of floating point numbers."""
    floating = jnp.issubdtype(jnp.result_type(value), jnp.floating)
    return jnp.asarray(np.asarray(value).astype(np.float64)) if floating else value
