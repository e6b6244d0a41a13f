"""Writing a site's fold into the leaves: what makes it, what lies on its way, what reads it."""

from typing import Any, NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.reads import matrix_index
from linjax.dims.sites import Site
from linjax.dims.span import Cut, transform
from linjax.evidence.points import Read
from linjax.fold.engine.choose import Choice
from linjax.fold.factors import placed, shapes
from linjax.fold.normed import behind_norms, of_norms
from linjax.fold.shifts import (
    add_to_bias,
    offset_at,
    offset_linear,
    offsets,
    point_of,
    readers,
    shift_reader,
    shifted_result,
)
from linjax.fold.written import Written, along, made_by, mixing, taking

Array = np.ndarray


def write(network: Network, now: Written, site: Site, choice: Choice) -> Written:
    """Returns the network with a site folded; sites are written in the order of execution."""
    flat, shifts, lacking = dict(now.flat), dict(now.shifts), dict(now.lacking)
    norms = {}
    if site.norms is not None:
        norms = of_norms(network, now, site, site.norms, choice)
        choice = behind_norms(network, flat, site.norms, choice)
    makers = {maker.leaf for maker in site.makers} - {None}  # those whose kernel isn't computed
    split, linear = _split(network, now, site, choice), choice.linear.shape[-1]
    before = now._replace(flat=flat, shifts=shifts, lacking=lacking)
    offset = offsets(network, site, choice)
    for reader in readers(network, site):  # of a stream, the later ones read what earlier ones make
        own = offset_at(network, before, site, choice, reader, offset)
        shift_reader(network, before, site, reader.leaf, own)
    lacking.pop(site.dim, None)
    for leaf in makers if linear else ():
        kernel, mix = flat[network.paths[leaf]], mixing(site, choice.linear)
        flat[network.extra(leaf, "linear")] = along(network, now, site, leaf, kernel, mix)
        if not site.steady:
            # One for a kernel, however often it is used.
            added = (now.shifts[m.op] for m in site.makers if m.leaf == leaf and m.op in now.shifts)
            shift = next(added, None)
            if shift is not None:
                own = _made_along(network, now, site, leaf, shift, mix)
                offset_linear(network, flat, leaf, own)
    for leaf, spans in enumerate(network.layout.leaves):
        if any(site.dim in s.dims() for s in spans):
            _write_leaf(network, now, site, choice, split, leaf, flat)
    flat.update(norms)
    _constants(network, now, site, split.bent, flat)
    for op, shift in shifts.items():
        shifts[op] = _narrowed(network, now, site, network.kernels[op].leaf, shift, split.bent)
    for leaf in makers:
        bias, given = (network.extra(leaf, kind) for kind in ("bias", "linear_offset"))
        if bias in flat:
            flat[bias] = _narrowed(network, now, site, leaf, flat[bias], split.bent)
        if given in flat and split.beside is not None:
            flat[given] = _made_along(network, now, site, leaf, flat[given], split.beside)
            if choice.basis is not None:  # linear coordinates are mixed with the others
                op = next(maker.op for maker in site.makers if maker.leaf == leaf)
                add_to_bias(network, flat, op, flat.pop(given))
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
        decode = choice.decode[point_of(network, site, leaf)]
        change = mixing(site, np.swapaxes(decode, -1, -2))
    elif choice.basis is not None:
        change = mixing(site, made_by(site, split.bent, leaf).basis)
    else:
        change = taking(split.bent.kept, len(site.beside))
    if path in flat:
        flat[path] = along(network, now, site, leaf, flat[path], change)
    makes = any(maker.leaf == leaf for maker in site.makers)
    if linear in flat and reads and linear != path:
        flat[linear] = along(network, now, site, leaf, flat[linear], change)
    elif linear in flat and makes and split.beside is not None:
        beside = along(network, now, site, leaf, flat[linear], split.beside)
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
            return _Split(choice._replace(basis=rows), mixing(site, beside))
        bent = choice.kept[0] < first
        taken = taking(choice.kept[:, ~bent] - first, repeats)
        return _Split(choice._replace(kept=choice.kept[:, bent]), taken)
    return _Split(choice, None)


def _constants(
    network: Network, now: Written, site: Site, choice: Choice, flat: dict[Any, Array]
) -> None:
    """Constants of the network go along with the coordinates that they belong to."""
    for key in network.varying:
        held = network.layout.constants[key]
        differs = zip(held.spans, held.varies, strict=True)
        if any(v and site.dim in s.dims() for s, v in differs):
            path = network.constant(key)
            if path not in flat and not now.kept[site.dim]:
                continue  # all of its entries are gone
            operand: Any = network.layout.makers[key[0]].inputs[key[1]]
            value = flat.get(path, np.asarray(operand.value))
            cut = Cut(
                site.dim, site.beside, now.kept.__getitem__, taking(choice.kept, len(site.beside))
            )
            flat[path] = transform(value, held.spans, cut)


def _narrowed(
    network: Network, now: Written, site: Site, leaf: int, shift: Array, choice: Choice
) -> Array:
    """What is added to the result of a product with a kernel, when what it makes is folded."""
    spans = tuple(network.layout.leaves[leaf][n] for n in network.bias_axes(leaf))
    if not any(site.dim in s.dims() for s in spans):
        return shift
    basis = made_by(site, choice, leaf).basis
    change = taking(choice.kept, len(site.beside)) if basis is None else mixing(site, basis)
    return _made_along(network, now, site, leaf, shift, change)


def _made_along(
    network: Network, now: Written, site: Site, leaf: int, shift: Array, change: Any
) -> Array:
    """What is added to a product's result, changed along a site that its kernel makes."""
    spans = tuple(network.layout.leaves[leaf][n] for n in network.bias_axes(leaf))
    return transform(shift, spans, Cut(site.dim, site.beside, now.kept.__getitem__, change))


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
    start = 0
    for path in (network.paths[leaf], network.extra(leaf, "linear")):
        if path not in flat:
            continue
        shape, dtype = flat[path].shape, flat[path].dtype
        places = matrix_index(network, read.frame, shape)[0]
        first, second = shapes(network, leaf, shape, rank)
        if not start:
            change = result_lacks(network, read, shape, lacking)
            down = placed(network, read.frame, first, both.down, dtype)
        up = both.up[:, start : start + places.shape[1]]
        flat[path] = placed(network, read.frame, second, up, dtype)
        start += places.shape[1]
    flat[network.extra(leaf, "down")] = down
    return shifted_result(network, now._replace(flat=flat), read.op, change)


def result_lacks(network: Network, read: Read, shape: tuple[int, ...], lacking: Array) -> Array:
    """What a product's result lacks, ``(q,)``, along the axes that its kernel makes."""
    places = matrix_index(network, read.frame, shape)[0]
    made = network.bias_axes(network.kernels[read.op].leaf)
    return lacking[np.argsort(places[0])].reshape([shape[n] for n in made])
