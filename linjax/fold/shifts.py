"""What offsets of features do to what reads them: biases, also past linear coordinates."""

from typing import Any

import numpy as np

from linjax.dims.borders import padded, seen
from linjax.dims.network import Network
from linjax.dims.sites import Site
from linjax.fold.engine.choose import Choice
from linjax.fold.factors import effective
from linjax.fold.written import Lacking, Written, along

Array = np.ndarray


def point_of(network: Network, site: Site, leaf: int) -> int:
    """Which of a site's points a reader with this kernel reads."""
    for reader in site.readers:
        if reader.leaf == leaf:
            operand: Any = network.layout.makers[reader.op].inputs[reader.data]
            return site.points.index(operand.id)
    raise KeyError(leaf)


def offsets(network: Network, site: Site, choice: Choice) -> list[Array]:
    """Offsets of features by point of the site: of data, not of data and padding on average."""
    shares = [padded(network, site, point) for point in site.points]
    pairs = zip(choice.offset, shares, strict=False)
    return [own / (1.0 - share) if share < 1 else own for own, share in pairs]


def with_lacking(choice: Choice, lacking: Lacking | None, offset: list[Array]) -> list[Array]:
    """Offsets with what linear coordinates that there were lack, and readers haven't been given."""
    if lacking is None:
        return offset
    if choice.basis is None:
        arriving = np.take_along_axis(lacking.arriving, choice.kept, axis=-1)
    else:
        arriving = np.einsum("nm,nmk->nk", lacking.arriving, choice.basis)
    k = arriving.shape[-1]
    return [
        own + np.einsum("nk,nkm->nm", arriving, decode[:, :k]) - lacking.given
        for own, decode in zip(offset, choice.decode, strict=True)
    ]


def with_shifts(
    site: Site, choice: Choice, shifts: dict[int, Array], offset: list[Array]
) -> list[Array]:
    """Offsets with what linear coordinates lack: results they are made beside were shifted."""
    of_leaf = {m.leaf: shifts[m.op].reshape(-1) for m in site.makers if m.op in shifts}
    if not of_leaf:
        return offset
    lacking = sum(of_leaf.values())  # one for each kernel, however often it is used
    k = choice.kept.shape[-1]
    through = np.einsum("m,nmr->nr", lacking, choice.linear)
    return [
        own + np.einsum("nr,nrm->nm", through, decode[:, k:])
        for own, decode in zip(offset, choice.decode, strict=True)
    ]


def shift_reader(network: Network, now: Written, site: Site, leaf: int, offset: Array) -> None:
    """Adds what a kernel makes of an offset of its features to its result, in place.

    Linear coordinates have no bias: whoever reads these is shifted for them.
    """
    if not np.any(offset):
        return
    ops = [reader.op for reader in site.readers if reader.leaf == leaf]
    if network.paths[leaf] in now.flat:
        kernel = effective(network, now.flat, ops[0])
        change = shifted(network, now, site, leaf, offset, kernel)
        for op in ops:
            now.shifts[op] = now.shifts.get(op, 0.0) + change
        add_to_bias(network, now.flat, ops[0], change)  # a kernel that is used twice has one bias
    if network.extra(leaf, "linear") not in now.flat:
        return
    kernel = effective(network, now.flat, ops[0], "linear")
    change = shifted(network, now, site, leaf, offset, kernel)
    if not change.size:
        return
    for other in network.sites:
        if any(maker.leaf == leaf for maker in other.makers):
            lacks = change.reshape(offset.shape[0], -1)
            lacks = np.pad(lacks, ((0, 0), (now.sizes[other.dim] - lacks.shape[-1], 0)))
            before = now.lacking.get(other.dim, Lacking(0.0 * lacks, 0.0 * lacks))
            now.lacking[other.dim] = Lacking(before.arriving + lacks, before.given + lacks)
            for behind in sorted({reader.leaf for reader in other.readers} - {None}):
                shift_reader(network, now, other, behind, lacks)


def shifted_result(network: Network, now: Written, op: int, change: Array) -> Written:
    """Adds to a product's result, along the axes that its kernel makes."""
    flat, shifts = dict(now.flat), dict(now.shifts)
    shifts[op] = shifts.get(op, 0.0) + change
    add_to_bias(network, flat, op, change)
    return now._replace(flat=flat, shifts=shifts)


def shifted(
    network: Network, now: Written, site: Site, leaf: int, offset: Array, kernel: Array
) -> Array:
    """What a kernel makes of an offset, along the axes that it makes."""

    def times(x: Array) -> Array:
        front = x.shape[: len(site.beside)]
        rows = x.reshape(offset.shape[0], -1, x.shape[-1]).astype(np.float64)
        return (rows * (1.0 + offset[:, None])).reshape(*front, *x.shape[len(front) :])

    kernel = kernel.astype(np.float64)
    change = along(network, now, site, leaf, kernel, times) - kernel
    made = network.bias_axes(leaf)
    change = change * np.mean([seen(network, r) for r in site.readers if r.leaf == leaf], axis=0)
    return change.sum(axis=tuple(n for n in range(change.ndim) if n not in made))


def add_to_bias(network: Network, flat: dict[Any, Array], op: int, change: Array) -> None:
    """Adds to a product's result: in the bias behind it, or in a leaf of its own."""
    leaf = network.kernels[op].leaf
    for bias in network.biases.get(op, ()):
        path = network.paths[bias.leaf]
        own = flat[path]
        flat[path] = (own + bias.sign * change.reshape(own.shape)).astype(own.dtype)
        return
    path = network.extra(leaf, "bias")
    dtype = flat[network.paths[leaf]].dtype
    flat[path] = (flat.get(path, 0.0) + change.astype(np.float64)).astype(dtype)
