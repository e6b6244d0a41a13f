"""Norms of a stream that is narrowed: kernels behind them take over what they scale and add."""

from typing import Any

import numpy as np

from linjax.dims.network import Network
from linjax.dims.norm_values import Norms
from linjax.dims.sites import Site
from linjax.fold.engine.choose import Choice
from linjax.fold.plans.streamed import scale_of, shift_of
from linjax.fold.written import Written, along
from linjax.program import pytree

Array = np.ndarray


def behind_norms(network: Network, flat: pytree.Flat, norms: Norms, choice: Choice) -> Choice:
    """A choice as kernels behind norms see it: what they read is ``γ n + β``, not n.

    A kernel that makes the coordinates, too, has one basis for both.
    """
    decode, offset = [], []
    for read, own in zip(norms.reads, choice.decode, strict=True):
        width = own.shape[-1]
        scale = scale_of(network, flat, read, width)
        tied = read.tied and choice.basis is not None
        decode.append(np.swapaxes(choice.basis, 1, 2) if tied else own * scale)
        offset.append(shift_of(network, flat, read, width)[None])
    return choice._replace(decode=tuple(decode), offset=tuple(offset))


def of_norms(
    network: Network, now: Written, site: Site, norms: Norms, choice: Choice
) -> dict[Any, Array]:
    """Leaves of the norms themselves: they scale by one and add nothing.

    A kernel that makes the coordinates and reads them leaves the scale in front of it: in its
    basis it is one again, for each coordinate.
    """
    k, found = choice.kept.shape[-1], dict[Any, Array]()
    for read, decode in zip(norms.reads, choice.decode, strict=True):
        own = np.ones(k)
        if read.tied and choice.basis is not None:
            scaled = decode[0] * scale_of(network, now.flat, read, decode.shape[-1])
            own = np.einsum("km,mk->k", scaled, choice.basis[0])
        values = dict.fromkeys(read.scales, own)
        values |= {leaf: np.zeros(k) for leaf, _ in read.shifts}
        for leaf, value in values.items():

            def put(x: Array, value: Array = value) -> Array:
                return np.broadcast_to(value, (*x.shape[:-1], k)).astype(x.dtype)

            path = network.paths[leaf]
            found[path] = along(network, now, site, leaf, now.flat[path], put)
    return found
