"""Writing a site's fold into the leaves: what makes it, what lies on its way, what reads it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.network import Network
from linjax.dims.reads import matrix_index
from linjax.dims.sites import Site
from linjax.dims.sizes import read_sizes
from linjax.dims.span import Cut, transform
from linjax.evidence.points import Read
from linjax.fold.engine.choose import Choice
from linjax.fold.factors import effective, placed, shapes
from linjax.program import pytree

Array = np.ndarray


class Lacking(NamedTuple):
    """What a site's linear coordinates lack, since they have no bias: ``(n, m)`` each.

    Attributes:
      arriving: what they are too small by when they are read.
      given: what their readers' biases have been given for it.
    """

    arriving: Array
    given: Array

    @property
    def known(self) -> "Lacking":
        """The same where a choice was made on what arrives."""
        return self._replace(arriving=0.0 * self.arriving)


class Written(NamedTuple):
    """A network that is being folded.

    Attributes:
      flat: its leaves, on the host.
      sizes: of all dimensions, linear coordinates counted where they are read.
      shifts: by product, what a fold has added to its result so far, along the kernel's axes.
      kept: sizes without linear coordinates, where leaves have entries for the others alone.
      lacking: by dimension, of linear coordinates that there were before.
    """

    flat: dict[Any, Array]
    sizes: dict[int, int]
    shifts: dict[int, Array]
    kept: dict[int, int]
    lacking: dict[int, Lacking]


def begun(network: Network, flat: dict[Any, Array]) -> Written:
    """A network none of whose sites has been folded."""
    host = {
        path: np.asarray(leaf) if pytree.is_floating(str(jnp.result_type(leaf))) else leaf
        for path, leaf in flat.items()
    }
    sizes = read_sizes(network, flat)
    return Written(host, {dim: sizes.all(dim) for dim in sizes.kept}, {}, dict(sizes.kept), {})


def finished(flat: Mapping[Any, Array], params: Any) -> Any:
    """Returns leaves as a pytree on the device, without those that have no entries left."""
    kept = {
        path: pytree.on_device(x, x.dtype) if isinstance(x, np.ndarray) else x
        for path, x in flat.items()
        if np.size(x)
    }
    return pytree.unflatten(kept, like=params)


def write(network: Network, now: Written, site: Site, choice: Choice) -> Written:
    """Returns the network with a site folded; sites are written in the order of execution."""
    flat, shifts, lacking = dict(now.flat), dict(now.shifts), dict(now.lacking)
    makers = {maker.leaf for maker in site.makers} - {None}  # those whose kernel isn't computed
    offset = _with_lacking(choice, lacking.pop(site.dim, None))
    split, linear = _split(network, now, site, choice), choice.linear.shape[-1]
    if linear:
        offset = _with_shifts(network, site, choice, shifts, offset)
    before = now._replace(flat=flat, shifts=shifts, lacking=lacking)
    for leaf in sorted({reader.leaf for reader in site.readers} - {None}):
        _shift_reader(network, before, site, leaf, offset[_point(network, site, leaf)])
    for leaf in makers if linear else ():
        kernel, mix = flat[network.paths[leaf]], _mixing(site, choice.linear)
        flat[network.extra(leaf, "linear")] = _along(network, now, site, leaf, kernel, mix)
    for leaf, spans in enumerate(network.layout.leaves):
        if any(site.dim in s.dims() for s in spans):
            _write_leaf(network, now, site, choice, split, leaf, flat)
    _constants(network, now, site, split.bent, flat)
    for op, shift in shifts.items():
        shifts[op] = _narrowed(network, now, site, network.kernels[op].leaf, shift, split.bent)
    for leaf in makers:
        bias = network.extra(leaf, "bias")
        if bias in flat:
            flat[bias] = _narrowed(network, now, site, leaf, flat[bias], split.bent)
    width = choice.decode[0].shape[-2] if choice.decode else choice.kept.shape[-1]
    own = split.bent.kept if split.bent.basis is None else split.bent.basis
    kept = {**now.kept, site.dim: own.shape[-1]}
    return Written(flat, {**now.sizes, site.dim: width}, shifts, kept, lacking)


def _write_leaf(
    network: Network, now: Written, site: Site, choice: Choice, split: "_Split", leaf: int,
    flat: dict[Any, Array],
) -> None:  # fmt: skip
    """Narrows a leaf, and what stands beside it, where it has a site's dimension; in place."""
    path, linear = network.paths[leaf], network.extra(leaf, "linear")
    reads = any(reader.leaf == leaf for reader in site.readers)
    if site.dim in network.layout.values[network.ref(leaf)].read and reads:
        if network.extra(leaf, "down") in flat:  # the factor that reads
            path = linear = network.extra(leaf, "down")
        decode = choice.decode[_point(network, site, leaf)]
        change = _mixing(site, np.swapaxes(decode, -1, -2))
    elif choice.basis is not None:
        change = _mixing(site, split.bent.basis)
    else:
        change = taking(split.bent.kept, len(site.beside))
    if path in flat:
        flat[path] = _along(network, now, site, leaf, flat[path], change)
    makes = any(maker.leaf == leaf for maker in site.makers)
    if linear in flat and reads and linear != path:
        flat[linear] = _along(network, now, site, leaf, flat[linear], change)
    elif linear in flat and makes and split.beside is not None:
        beside = _along(network, now, site, leaf, flat[linear], split.beside)
        if choice.basis is None:
            flat[linear] = beside
        else:  # nothing lies between: what was beside is mixed in
            flat[path] = flat[path] + beside if path in flat else beside
            del flat[linear]


class _Split(NamedTuple):
    """A choice among coordinates with everything on their way, and what is done to linear ones.

    The latter is None where the site has none yet.
    """

    bent: Choice
    beside: Any


def _split(network: Network, now: Written, site: Site, choice: Choice) -> _Split:
    repeats = len(site.beside)
    for maker in site.makers:
        extra = None if maker.leaf is None else now.flat.get(network.extra(maker.leaf, "linear"))
        if extra is None:
            continue
        spans = network.layout.leaves[maker.leaf]
        at = next(n for n, s in enumerate(spans) if s.dim == site.dim)
        first = now.sizes[site.dim] - np.shape(extra)[at]
        if choice.basis is not None:
            rows, beside = np.split(choice.basis, [first], axis=1)
            return _Split(choice._replace(basis=rows), _mixing(site, beside))
        bent = choice.kept[0] < first
        taken = taking(choice.kept[:, ~bent] - first, repeats)
        return _Split(choice._replace(kept=choice.kept[:, bent]), taken)
    return _Split(choice, None)


def _along(
    network: Network, now: Written, site: Site, leaf: int, value: Array, change: Any
) -> Array:
    spans = network.layout.leaves[leaf]
    read = network.layout.values[network.ref(leaf)].read

    def size(dim: int) -> int:
        return now.sizes[dim] if dim in read else now.kept[dim]

    return transform(value, spans, Cut(site.dim, site.beside, size, change))


def _mixing(site: Site, matrices: Array) -> Any:
    """Multiplies by a matrix for each repeat."""

    def change(x: Array) -> Array:
        front = x.shape[: len(site.beside)]
        rows = x.reshape(matrices.shape[0], -1, x.shape[-1]).astype(np.float64)
        mixed = rows @ matrices
        return mixed.reshape(*front, *x.shape[len(front) : -1], -1).astype(x.dtype)

    return change


def taking(kept: Array, repeats: int) -> Any:
    """Takes the coordinates of each repeat."""

    def change(x: Array) -> Array:
        front = x.shape[:repeats]
        rows = x.reshape(kept.shape[0], -1, x.shape[-1])
        index = np.broadcast_to(kept[:, None, :], (*rows.shape[:2], kept.shape[-1]))
        taken = np.take_along_axis(rows, index, axis=-1)
        return taken.reshape(*front, *x.shape[repeats:-1], -1)

    return change


def narrowing(choice: Choice) -> Any:
    """Narrows arrays of JAX as a choice does: by a basis, or by taking coordinates."""

    def change(x: Any) -> Any:
        front = x.shape[: x.ndim - 1]
        if choice.basis is not None:
            basis = jnp.asarray(choice.basis, x.dtype)
            rows = x.reshape(basis.shape[0], -1, x.shape[-1])
            return (rows @ basis).reshape(*front, -1)
        rows = x.reshape(choice.kept.shape[0], -1, x.shape[-1])
        index = jnp.broadcast_to(choice.kept[:, None, :], (*rows.shape[:2], choice.kept.shape[-1]))
        return jnp.take_along_axis(rows, index, axis=-1).reshape(*front, -1)

    return change


def _point(network: Network, site: Site, leaf: int) -> int:
    """Which of a site's points a reader with this kernel reads."""
    for reader in site.readers:
        if reader.leaf == leaf:
            operand: Any = network.layout.makers[reader.op].inputs[reader.data]
            return site.points.index(operand.id)
    raise KeyError(leaf)


def _with_lacking(choice: Choice, lacking: Lacking | None) -> list[Array]:
    """Offsets with what linear coordinates that there were lack, and readers haven't been given."""
    if lacking is None:
        return list(choice.offset)
    if choice.basis is None:
        arriving = np.take_along_axis(lacking.arriving, choice.kept, axis=-1)
    else:
        arriving = np.einsum("nm,nmk->nk", lacking.arriving, choice.basis)
    k = arriving.shape[-1]
    return [
        own + np.einsum("nk,nkm->nm", arriving, decode[:, :k]) - lacking.given
        for own, decode in zip(choice.offset, choice.decode, strict=True)
    ]


def _with_shifts(
    network: Network, site: Site, choice: Choice, shifts: dict[int, Array], offset: list[Array]
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


def _shift_reader(network: Network, now: Written, site: Site, leaf: int, offset: Array) -> None:
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
                _shift_reader(network, now, other, behind, lacks)


def shifted_result(network: Network, now: Written, op: int, change: Array) -> Written:
    """Adds to a product's result, along the axes that its kernel makes."""
    flat, shifts = dict(now.flat), dict(now.shifts)
    shifts[op] = shifts.get(op, 0.0) + change
    add_to_bias(network, flat, op, change)
    return now._replace(flat=flat, shifts=shifts)


class Halves(NamedTuple):
    """A kernel in two factors: ``(p, s)`` and ``(s, q)``, or ``(s, q + r)`` with linear ones."""

    down: Array
    up: Array


def halved(network: Network, now: Written, read: Read, both: Halves, lacking: Array) -> Written:
    """Returns the network with a kernel in two factors.

    Args:
      network: the traced network.
      now: what it is now.
      read: the kernel's product.
      both: its factors.
      lacking: ``(q,)`` what the result lacks with them.
    """
    flat, leaf, rank = dict(now.flat), network.kernels[read.op].leaf, len(both.up)
    made, start = network.bias_axes(leaf), 0
    for path in (network.paths[leaf], network.extra(leaf, "linear")):
        if path not in flat:
            continue
        shape, dtype = flat[path].shape, flat[path].dtype
        places = matrix_index(network, read.frame, shape)[0]
        first, second = shapes(network, leaf, shape, rank)
        if not start:
            change = lacking[np.argsort(places[0])].reshape([shape[n] for n in made])
            down = placed(network, read.frame, first, both.down, dtype)
        up = both.up[:, start : start + places.shape[1]]
        flat[path] = placed(network, read.frame, second, up, dtype)
        start += places.shape[1]
    flat[network.extra(leaf, "down")] = down
    return shifted_result(network, now._replace(flat=flat), read.op, change)


def shifted(
    network: Network, now: Written, site: Site, leaf: int, offset: Array, kernel: Array
) -> Array:
    """What a kernel makes of an offset, along the axes that it makes."""

    def times(x: Array) -> Array:
        front = x.shape[: len(site.beside)]
        rows = x.reshape(offset.shape[0], -1, x.shape[-1]).astype(np.float64)
        return (rows * (1.0 + offset[:, None])).reshape(*front, *x.shape[len(front) :])

    kernel = kernel.astype(np.float64)
    change = _along(network, now, site, leaf, kernel, times) - kernel
    made = network.bias_axes(leaf)
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


def _narrowed(
    network: Network, now: Written, site: Site, leaf: int, shift: Array, choice: Choice
) -> Array:
    """What is added to the result of a product with a kernel, when what it makes is folded."""
    spans = tuple(network.layout.leaves[leaf][n] for n in network.bias_axes(leaf))
    if not any(site.dim in s.dims() for s in spans):
        return shift
    change = (
        taking(choice.kept, len(site.beside))
        if choice.basis is None
        else _mixing(site, choice.basis)
    )
    return transform(shift, spans, Cut(site.dim, site.beside, now.kept.__getitem__, change))


def _constants(
    network: Network, now: Written, site: Site, choice: Choice, flat: dict[Any, Array]
) -> None:
    """Constants of the network go along with the coordinates that they belong to."""
    for key in network.varying:
        held = network.layout.constants[key]
        differs = zip(held.spans, held.varies, strict=True)
        if any(v and site.dim in s.dims() for s, v in differs):
            path = network.constant(key)
            operand: Any = network.layout.makers[key[0]].inputs[key[1]]
            value = flat.get(path, np.asarray(operand.value))
            cut = Cut(
                site.dim, site.beside, now.kept.__getitem__, taking(choice.kept, len(site.beside))
            )
            flat[path] = transform(value, held.spans, cut)
