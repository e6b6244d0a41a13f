"""The leaves of a pytree as a network takes them: checked, whole, absent ones without entries.

Beside a kernel leaf ``W`` a folded pytree may hold

    W_bias     a bias where the trace saw none
    W_linear   makes linear coordinates beside those that ``W`` makes
    W_linear_offset is added to these where readers can't make up for it (see ``Site.steady``)
    W_down     a first factor: what is read goes through it before ``W`` and ``W_linear`` read it
    W_residual what it reads of features that are carried on (see :mod:`linjax.dims.carrying`)

in the layout of the kernel.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from linjax.dims.network import Network
from linjax.dims.sizes import Flat, Sizes, read_sizes
from linjax.errors import StructureError
from linjax.program.pytree import is_floating, join, unknown

Array = Any
EXTRAS = ("bias", "linear", "down", "linear_offset")
RESIDUAL = "residual"


def check(network: Network, flat: Flat) -> None:
    """Checks that leaves are a network's, or those of one folded from it.

    Raises:
      StructureError: naming the first that doesn't fit, is missing, or isn't known.
    """
    check_known(network, flat)
    sizes = read_sizes(network, flat)
    for leaf in range(len(network.paths)):
        leaf_of(network, leaf, flat, sizes)


def check_widths(network: Network, flat: Flat) -> None:
    """Checks that leaves which fit are no wider than those that were traced.

    Raises:
      StructureError: naming the first that is.
    """
    sizes = read_sizes(network, flat)
    for leaf, spans in enumerate(network.layout.leaves):
        for n, span in enumerate(spans):
            wide = [d for d in span.dims() if sizes.kept[d] > network.layout.traced[d]]
            if wide and network.paths[leaf] in flat:
                raise StructureError(
                    f"{join(network.paths[leaf])}, axis {n}: {sizes.kept[wide[0]]} coordinates, "
                    f"expected at most {network.layout.traced[wide[0]]}, as traced; trace the "
                    "network that these parameters are of"
                )


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


def leaf_of(network: Network, leaf: int, flat: Flat, sizes: Sizes) -> Array:
    """A leaf; one without entries where it is absent."""
    path, held = network.paths[leaf], network.layout.values[network.ref(leaf)]
    if path in flat:
        rows = flat.get(network.extra(leaf, RESIDUAL))
        if rows is None:
            return flat[path]
        return jnp.concatenate([flat[path], rows], axis=held.read_axis)
    shape = sizes.shape(held)
    if 0 not in shape and leaf not in _spare(network, flat) | sizes.absent:
        raise StructureError(f"{join(path)}: missing, expected shape {shape}")
    return jnp.zeros(shape, network.layout.program.avals[network.ref(leaf)].dtype)


def constant_of(
    network: Network, key: tuple[int, int], flat: Flat, sizes: Sizes
) -> Array | None:  # fmt: skip
    """A constant that went along with coordinates, one without entries where these are all gone.

    None where it is what it was.
    """
    path, held = network.constant(key), network.layout.constants[key]
    if path in flat:
        return lax.stop_gradient(flat[path])
    own = zip(held.spans, held.varies, strict=True)
    dims = {d for span, varies in own if varies for d in span.dims()}
    if all(sizes.kept.get(d, 1) for d in dims):
        return None
    operand: Any = network.layout.makers[key[0]].inputs[key[1]]
    shape = [
        span.now(sizes.kept.__getitem__) if varies else size
        for span, varies, size in zip(
            held.spans, held.varies, jnp.shape(operand.value), strict=True
        )
    ]
    return jnp.zeros(shape, jnp.result_type(operand.value))


def _spare(network: Network, flat: Flat) -> set[int]:
    """Leaves that may be left out though they have entries, all zeros.

    These are kernels whose bias alone is there, and biases of kernels that lead no sum.
    """
    spare = set[int]()
    for way in network.ways:
        lent = way.carriers[1:]
        own = (bias.leaf for m in lent for bias in network.biases.get(m.op, ()))
        spare.update(own)
        for product in (*way.makers, *way.readers):
            paths = [network.extra(product.leaf or 0, "bias")]
            paths += [network.paths[b.leaf] for b in network.biases.get(product.op, ())]
            if product.leaf is not None and any(path in flat for path in paths):
                spare.add(product.leaf)
    return spare
