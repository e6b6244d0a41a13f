"""What offsets of features do to what reads them: biases, also past linear coordinates."""

import math
from typing import Any

import numpy as np

from linjax.dims.borders import padded, seen
from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.replay import order
from linjax.dims.sites import Product, Site
from linjax.dims.span import Cut, exposed
from linjax.fold.engine.choose import Choice
from linjax.fold.factors import effective
from linjax.fold.written import Lacking, Written, along
from linjax.program.flat import Ref

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


def readers(network: Network, site: Site) -> list[Product]:
    """A site's readers in the order of execution, one of each kernel."""
    place = order(network)
    return _each(sorted((r for r in site.readers if r.leaf is not None), key=lambda r: place[r.op]))


def _each(products: list[Product]) -> list[Product]:
    """The first product of each kernel."""
    return list({product.leaf: product for product in reversed(products)}.values())[::-1]


def offset_at(
    network: Network, now: Written, site: Site, choice: Choice, reader: Product, offset: list[Array]
) -> Array:
    """The offset of what a reader reads, with what linear coordinates lack there by now.

    Those that there were lack what arrives and what their readers haven't been given; new ones
    lack what has been added to the results that they are made beside.
    """
    point = point_of(network, site, reader.leaf)
    found, decode = offset[point], choice.decode[point]
    if site.dim in now.lacking:
        arriving, given = (own[point] for own in now.lacking[site.dim])
        if choice.basis is None:
            left = np.take_along_axis(arriving, choice.kept, axis=-1)
        else:
            left = np.einsum("nm,nmk->nk", arriving, choice.basis)
        found = found + np.einsum("nk,nkm->nm", left, decode[:, : left.shape[-1]]) - given
    # One for each kernel, however often it is used.
    of_leaf = {m.leaf: _by_repeat(network, now, site, m.leaf, now.shifts[m.op])
               for m in (site.makers if site.steady else ())
               if m.op in now.shifts and follows(network, reader, m.op)}  # fmt: skip
    if of_leaf and choice.linear.shape[-1]:
        through = np.einsum("nm,nmr->nr", sum(of_leaf.values()), choice.linear)
        found = found + np.einsum("nr,nrm->nm", through, decode[:, choice.kept.shape[-1] :])
    return found


def _by_repeat(network: Network, now: Written, site: Site, leaf: int, shift: Array) -> Array:
    """What was added to a product's result, ``(n, m)`` by repeat of a site that it makes."""
    spans = tuple(network.layout.leaves[leaf][n] for n in network.bias_axes(leaf))
    cut = Cut(site.dim, site.beside, now.kept.__getitem__, lambda x: x)
    found = np.asarray(exposed(shift, spans, cut))
    return found.reshape(-1, found.shape[-1])


def shift_reader(network: Network, now: Written, site: Site, leaf: int, offset: Array) -> None:
    """Adds what a kernel makes of an offset of its features to its result, in place.

    Linear coordinates have no bias: whoever reads these is shifted for them, and so on, in the
    order of execution. A stream's are made at many places and read at many: an offset arrives
    where what is read follows from what lacks it.
    """
    place = order(network)
    sites = {own.dim: own for own in network.sites}
    uses = [reader.op for reader in site.readers if reader.leaf == leaf]
    waiting = {(site.dim, leaf): (min(map(place.__getitem__, uses)), offset)}
    while waiting:
        key = min(waiting, key=lambda k: waiting[k][0])
        start, offset = waiting.pop(key)
        if not np.any(offset):
            continue
        one, leaf = sites[key[0]], key[1]
        ops = [reader.op for reader in one.readers if reader.leaf == leaf]
        change = _shift_one(network, now, one, leaf, ops, offset)
        if change is None:
            continue
        results = [op for op in ops if place[op] >= start]
        for other in network.sites:
            if any(maker.leaf == leaf for maker in other.makers):
                if not other.steady:
                    offset_linear(network, now.flat, leaf, change)
                    continue
                lacks = _lacks(network, now, other, leaf, change)
                for op in results:
                    for reader in _lack(network, now, other, op, lacks):
                        at = other.dim, reader.leaf
                        first, before = waiting.get(at, (place[reader.op], 0.0))
                        waiting[at] = min(first, place[reader.op]), before + lacks


def _shift_one(
    network: Network, now: Written, site: Site, leaf: int, ops: list[int], offset: Array
) -> Array | None:
    """Shifts the results of one kernel; returns what its linear coordinates lack, if it has any."""
    if network.paths[leaf] in now.flat:
        kernel = effective(network, now.flat, ops[0])
        change = shifted(network, now, site, leaf, offset, kernel)
        for op in ops:
            now.shifts[op] = now.shifts.get(op, 0.0) + change
        add_to_bias(network, now.flat, ops[0], change)  # a kernel that is used twice has one bias
    if network.extra(leaf, "linear") not in now.flat:
        return None
    kernel = effective(network, now.flat, ops[0], "linear")
    change = shifted(network, now, site, leaf, offset, kernel)
    return change if change.size else None


def offset_linear(network: Network, flat: dict[Any, Array], leaf: int, change: Array) -> None:
    """Adds to the linear coordinates that a kernel makes, whose readers can't make up for it."""
    path, own = network.extra(leaf, "linear_offset"), flat[network.extra(leaf, "linear")]
    if np.any(change):
        flat[path] = (flat.get(path, 0.0) + change.astype(np.float64)).astype(own.dtype)


def _lack(network: Network, now: Written, site: Site, op: int, lacks: Array) -> list[Product]:
    """Notes what lacks where a product's result arrives; returns a reader for each kernel there."""
    there = [r for r in site.readers if r.leaf is not None and follows(network, r, op)]
    points = {point_of(network, site, r.leaf) for r in there}
    none = np.zeros((len(site.points), *lacks.shape))
    more = np.stack([lacks if n in points else 0 * lacks for n in range(len(site.points))])
    before = now.lacking.get(site.dim, Lacking(none, none))
    now.lacking[site.dim] = Lacking(before.arriving + more, before.given + more)
    return _each(there)


def follows(network: Network, reader: Product, op: int) -> bool:
    """Whether what a product reads is made of another's result, by no kernel in between."""
    makers, passed = network.layout.makers, set[int]()
    operand: Any = makers[reader.op].inputs[reader.data]
    todo = [operand.id]
    while todo:
        maker = makers.get(todo.pop())
        if maker is None or number(maker) in passed:
            continue
        if number(maker) == op:
            return True
        passed.add(number(maker))
        if number(maker) not in network.kernels:
            todo += [o.id for o in maker.inputs if isinstance(o, Ref)]
    return False


def shifted_result(network: Network, now: Written, op: int, change: Array) -> Written:
    """Adds to a product's result, along the axes that its kernel makes."""
    flat, shifts = dict(now.flat), dict(now.shifts)
    shifts[op] = shifts.get(op, 0.0) + change
    add_to_bias(network, flat, op, change)
    return now._replace(flat=flat, shifts=shifts)


def shifted_linear(network: Network, now: Written, op: int, change: Array) -> Written:
    """Makes up for what linear coordinates lack that a product makes, along its kernel's axes.

    Where they are read, later on: in biases, or in an offset of their own.
    """
    now = now._replace(flat=dict(now.flat), shifts=dict(now.shifts), lacking=dict(now.lacking))
    leaf = network.kernels[op].leaf
    for site in network.sites:
        if not any(maker.leaf == leaf for maker in site.makers):
            continue
        if not site.steady:
            offset_linear(network, now.flat, leaf, change)
            continue
        lacks = _lacks(network, now, site, leaf, change)
        for reader in _lack(network, now, site, op, lacks):
            shift_reader(network, now, site, reader.leaf, lacks)
    return now


def _lacks(network: Network, now: Written, site: Site, leaf: int, change: Array) -> Array:
    """What a site's coordinates lack, ``(n, m)``, of which some linear ones lack something."""
    lacks = _by_repeat(network, now, site, leaf, change)
    return np.pad(lacks, ((0, 0), (now.sizes[site.dim] - lacks.shape[-1], 0)))


def shifted(
    network: Network, now: Written, site: Site, leaf: int, offset: Array, kernel: Array
) -> Array:
    """What a kernel makes of an offset, along the axes that it makes."""

    def times(x: Array) -> Array:
        front = x.shape[: len(site.beside)]
        count = math.prod(x.shape[len(front) : -1])  # nothing may be left of the coordinates
        rows = x.reshape(offset.shape[0], count, x.shape[-1]).astype(np.float64)
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
    if path not in flat and not np.any(change):
        return
    dtype = flat[network.paths[leaf]].dtype
    flat[path] = (flat.get(path, 0.0) + change.astype(np.float64)).astype(dtype)
