"""How much of a network can become smaller: shares of its parameters."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from linjax.dims.network import Network
from linjax.dims.sites import Form, Site
from linjax.program.flat import Ref

__all__ = ["Shares", "shares"]

_BENT = frozenset({Form.BENT, Form.BLOCKS, Form.PAIRED})


class Shares(NamedTuple):
    """Shares of a network's parameters in leaves that have a dimension of a site.

    Each share counts what the one before counts, too.

    Attributes:
      parameters: how many parameters there are.
      bent: with a dimension of which some coordinates are chosen.
      straight: or one that may change its basis.
      normed: or one that a norm runs over.
      foldable: share in leaves with a dimension that least squares makes smaller: all of
        ``normed`` but blocks, and streams whose norms stand in the way.
      inside: the same without streams that norms run over, which reach almost all.
    """

    parameters: int
    bent: float
    straight: float
    normed: float
    foldable: float
    inside: float


def shares(network: Network) -> Shares:
    """Returns how much of a network's parameters its sites reach."""
    sizes = leaf_sizes(network)
    bent, straight, normed = (
        reached(network, [s for s in network.sites if s.form in forms], sizes)
        for forms in (_BENT, _BENT | {Form.STRAIGHT}, frozenset(Form))
    )
    inside = [site for site in network.foldable if site.norms is None]
    folded = (reached(network, own, sizes) for own in (network.foldable, inside))
    return Shares(sum(sizes), bent, straight, normed, *folded)


def reached(network: Network, sites: Iterable[Site], sizes: Sequence[int]) -> float:
    """Share of the entries of leaves of these sizes that lie in leaves with a site's dimension."""
    dims = {site.dim for site in sites}
    inside = sum(
        size
        for size, spans in zip(sizes, network.layout.leaves, strict=True)
        if any(dims & set(span.dims()) for span in spans)
    )
    return inside / (sum(sizes) or 1)


def leaf_sizes(network: Network) -> list[int]:
    """The numbers of entries of the leaves.

    None for leaves that are neither floating nor complex, and for those that the network doesn't
    use.
    """
    program = network.layout.program
    operands = (*program.outputs, *(o for op in program.all_ops() for o in op.inputs))
    used = {o.id for o in operands if isinstance(o, Ref)}
    found = []
    for leaf in range(len(network.paths)):
        ref = network.ref(leaf)
        aval = program.avals[ref]
        counts = ref in used and jnp.issubdtype(aval.dtype, jnp.inexact)
        found.append(math.prod(aval.shape) if counts else 0)
    return found
