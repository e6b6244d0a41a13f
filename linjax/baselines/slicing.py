"""The residual stream of a transformer sliced: SliceGPT's rotation, one for all blocks."""

import collections
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.baselines.budget import largest
from linjax.baselines.streams import seen
from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.run import execute
from linjax.dims.sites import Form, Site
from linjax.dims.sizes import read_sizes
from linjax.dims.span import Cut, transform
from linjax.errors import LinjaxError
from linjax.evidence.points import at_point
from linjax.fold.engine.cost import State, total
from linjax.fold.plans.costs import terms_of
from linjax.fold.rules import Size
from linjax.net import Net, trace
from linjax.program import pytree
from linjax.program.flat import Const, Ref, record

Array = np.ndarray


def sliced(net: Net, params: Any, batches: Iterable[Any], rule: Size) -> tuple[Net, Any]:
    """Narrows the stream that RMS norms run over to its principal directions.

    The norms' scales go into the kernels behind them; then every kernel that writes the stream,
    or reads it, is multiplied by the leading eigenvectors of the normalised stream's second
    moments. The published method has a rotation for each block, with kernels on the shortcuts
    between them; here one serves all, and shortcuts stay free. A leaf that is used twice, as a
    tied embedding is, becomes two.

    Reference: Ashkboos et al., SliceGPT: Compress large language models by deleting rows and
    columns, ICLR 2024, arXiv 2401.15024.

    Returns:
      Another network, and its parameters.

    Raises:
      LinjaxError: if there is no such stream, or not one alone.
    """
    whole = _cost(net.network, (), rule)
    loose, params = untied(net, params)
    network, flat = loose.network, loose.network.flatten(params)
    streams = [s for s in network.sites if s.form is Form.NORMED and not s.beside and not s.fixed]
    if len(streams) != 1:
        raise LinjaxError(f"expected one stream that norms run over, found {len(streams)}")
    site = streams[0]
    flat, scales = _fused(network, flat, site)

    def cost(share: float) -> float:
        return _cost(network, ((site.dim, max(1, round(share * site.width))),), rule)

    kept = max(1, round(largest(cost, rule.fraction * whole, rule) * site.width))
    basis = _principal(loose, flat, network.sites.index(site), batches)[:, :kept]
    for leaf, spans in enumerate(network.layout.leaves):
        path = network.paths[leaf]
        if leaf in scales:
            flat[path] = flat[path][:kept]
        elif any(site.dim in s.dims() for s in spans):
            flat[path] = _along(network, site, leaf, flat[path], lambda x: x @ basis)
    return loose, pytree.unflatten(flat, like=params)


def _cost(network: Network, widths: tuple[tuple[int, int], ...], rule: Size) -> float:
    """What a network costs where some dimensions have other widths."""
    terms = terms_of(network, {dim: n for n, (dim, _) in enumerate(widths)}, {}, rule.of)
    return total(terms, State(tuple(k for _, k in widths), (0,) * len(widths), ()))


def _along(
    network: Network, site: Site, leaf: int, value: Any, change: Callable[[Array], Array]
) -> Any:
    cut = Cut(site.dim, (), network.layout.traced.__getitem__, change)
    old = np.asarray(value)
    new = transform(old.astype(np.float64), network.layout.leaves[leaf], cut)
    return jnp.asarray(new, old.dtype)


def _fused(network: Network, flat: pytree.Flat, site: Site) -> tuple[pytree.Flat, set[int]]:
    """Leaves with the norms' scales in the kernels behind them, and which leaves are scales.

    Raises:
      LinjaxError: if the stream meets anything but kernels and scales that kernels read.
    """
    layout, flat = network.layout, dict(flat)
    made = {maker.leaf for maker in site.makers}
    scale_of: dict[int, int] = {}
    for op in layout.program.all_ops():
        held = [layout.operand(op, place) for place in range(len(op.inputs))]
        for own in held if op.name == "mul" else ():
            if own.leaf is not None and [s.dim for s in layout.leaves[own.leaf]] == [site.dim]:
                scale_of[number(op)] = own.leaf
    for reader in site.readers:
        operand: Any = layout.makers[reader.op].inputs[reader.data]
        scale = scale_of.get(operand.id)
        if scale is not None:
            factor = np.asarray(flat[network.paths[scale]], np.float64)
            path = network.paths[reader.leaf]
            times = functools.partial(np.multiply, factor)
            flat[path] = _along(network, site, reader.leaf, flat[path], times)
    scales = set(scale_of.values())
    kernels = made | {reader.leaf for reader in site.readers}
    for leaf, spans in enumerate(layout.leaves):
        if any(site.dim in s.dims() for s in spans) and leaf not in kernels | scales:
            raise LinjaxError(
                f"{network.names[leaf]}: the stream can't be rotated past this; only RMS norms are "
                "known"
            )
    for leaf in scales:
        flat[network.paths[leaf]] = jnp.ones_like(flat[network.paths[leaf]])
    return flat, scales


def _principal(net: Net, flat: pytree.Flat, site: int, batches: Iterable[Any]) -> Array:
    """Eigenvectors of the second moments of all that is read of a stream, largest first."""
    parts = [_moments(own, flat, leaves, site) for own, leaves in seen(net, flat, batches)]
    return np.linalg.eigh(np.sum(parts, axis=0, dtype=np.float64))[1][:, ::-1]


@functools.partial(jax.jit, static_argnames=("network", "site"))
def _moments(network: Network, flat: Any, inputs: Any, site: int) -> Any:
    own = network.sites[site]
    values = execute(network, flat, inputs, frozenset(own.points)).values
    sizes, found = read_sizes(network, flat, inputs), jnp.zeros(())
    for point in own.points:
        rows = at_point(network, own, point, values[point], sizes)[0]
        found = found + jnp.matmul(rows.T, rows, precision="highest") / len(rows)
    return found


def untied(net: Net, params: Any) -> tuple[Net, Any]:
    """Returns a network in which every use of a leaf is of a leaf of its own.

    Raises:
      LinjaxError: if there are scans.
    """
    if any(op.scan is not None for op in net.network.layout.program.ops):
        raise LinjaxError("leaves in a scan can't be told apart")
    leaves = jax.tree.leaves(params)

    def apply(tree: Any, *inputs: Any) -> Any:
        program, structure = record(net.apply_fn, tree["first"], *inputs)
        values = [*jax.tree.leaves(tree["first"]), *jax.tree.leaves(inputs)]
        env = {ref.id: x for ref, x in zip(program.inputs, values, strict=True)}
        places = {ref.id: n for n, ref in enumerate(program.inputs[: len(leaves)])}
        seen: collections.Counter[int] = collections.Counter()
        for op in program.ops:
            found = []
            for operand in op.inputs:
                if isinstance(operand, Const):
                    found.append(operand.value)
                    continue
                leaf = places.get(operand.id, -1)
                again = f"{leaf}_{seen[leaf]}"
                seen[leaf] += 1
                found.append(tree["again"].get(again, env[operand.id]))
            env.update(zip((ref.id for ref in op.outputs), op.bind(*found), strict=True))
        results = [o.value if isinstance(o, Const) else env[o.id] for o in program.outputs]
        return jax.tree.unflatten(structure, results)

    uses: collections.Counter[int] = collections.Counter()
    refs = {net.network.ref(n): n for n in range(len(leaves))}
    for op in net.network.layout.program.ops:
        uses.update(refs[o.id] for o in op.inputs if isinstance(o, Ref) and o.id in refs)
    copies = {f"{n}_{k}": leaves[n] for n, count in uses.items() for k in range(1, count)}
    both = {"first": params, "again": copies}
    return trace(apply, both, *net.example), both
