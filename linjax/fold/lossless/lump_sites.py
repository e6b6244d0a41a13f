"""Lumping over dimensions: coordinates that are multiples of one another become one.

What :mod:`linjax.exact.multiples` proves of the program says which parameters have to be
proportional, or equal; here they are compared, and a site that has such coordinates is rewritten:
coordinate t goes, and ρ times what its readers do with it is added to what they do with its
representative. A coordinate that is zero everywhere just goes.
"""

from typing import Any, NamedTuple

import numpy as np

from linjax.dims.leaves import EXTRAS, RESIDUAL
from linjax.dims.network import Network
from linjax.dims.parameters import parameters
from linjax.dims.sites import Form, Site
from linjax.dims.span import Cut, Spans, exposed
from linjax.dims.spelled import carriers
from linjax.evidence.points import point_spans
from linjax.exact.multiples import Affine, Proof, Step, prove
from linjax.fold.engine.choose import Choice
from linjax.fold.lossless.proportional import Classes, Made, in_proportion, rounding, storable
from linjax.fold.rewrite import write
from linjax.fold.written import Written, begun
from linjax.program import pytree
from linjax.program.precision import coarsest

Array = np.ndarray


class LumpedSites(NamedTuple):
    """A network without coordinates that others stand for.

    Attributes:
      flat: its leaves.
      units: by site, coordinates of each repeat before.
      kept: after.
      unknown: names of sites of which nothing is known that would let one stand for others.
    """

    flat: pytree.Flat
    units: tuple[int, ...]
    kept: tuple[int, ...]
    unknown: tuple[str, ...]


def lump_sites(network: Network, flat: pytree.Flat, tolerance: float) -> LumpedSites:
    """Lumps all sites, in the order of execution.

    Args:
      network: the network, traced for parameters of these dtypes.
      flat: its parameters, original or folded.
      tolerance: how far weights may be apart, see :func:`linjax.lump`.
    """
    now = begun(network, flat)
    host, carrying = now.flat, carriers(network, flat)
    units, kept, unknown = [], [], []
    for site in network.sites:
        units.append(now.sizes[site.dim])
        onward = any(reader.op in carrying for reader in site.readers)
        free = not onward and _free(network, now, site)
        proof = prove(network.layout, site.dim, site.beside) if free else None
        found = None if proof is None else _Lumping(network, now, site, proof).found(tolerance)
        if found is not None:
            now = write(network, now, site, _choice(site, found))
        if proof is None:
            unknown.append(site.name)
        kept.append(now.sizes[site.dim])
    new = {
        path: flat[path] if path in flat and x is host.get(path) else pytree.on_device(x, x.dtype)
        for path, x in now.flat.items()
    }
    return LumpedSites(new, tuple(units), tuple(kept), tuple(unknown))


def _free(network: Network, now: Written, site: Site) -> bool:
    """Whether a site is as it was traced: nothing beside its kernels, and none gone."""
    if site.form not in (Form.BENT, Form.STRAIGHT) or site.fixed or now.sizes[site.dim] < 2:
        return False
    leaves = [
        n for n, spans in enumerate(network.layout.leaves)
        if any(site.dim in s.dims() for s in spans)
    ]  # fmt: skip
    extras = [network.extra(leaf, kind) for leaf in leaves for kind in (*EXTRAS, RESIDUAL)]
    read = {reader.leaf for reader in site.readers}
    beside = {network.extra(leaf, "bias") for leaf in read}  # what readers make is shifted
    held = all(
        network.paths[leaf] in now.flat and isinstance(now.flat[network.paths[leaf]], np.ndarray)
        for leaf in leaves
    )
    return held and not any(path in now.flat for path in extras if path not in beside)


class _Lumping:
    """Finds which coordinates of a site are multiples of others."""

    def __init__(self, network: Network, now: Written, site: Site, proof: Proof) -> None:
        self.network, self.now, self.site, self.proof = network, now, site, proof
        steps = [s for own in proof.affine for s in own.steps if s.leaf is None]
        values = {s.value for s in steps}
        self.values = parameters(network, now.flat, values) if values else {}
        self.readers = {reader.leaf: reader for reader in site.readers}

    def found(self, tolerance: float) -> list[Classes] | None:
        """A partition for each repeat, all with as many classes; None where nothing goes."""
        layout, dim = self.network.layout, self.site.dim
        own = [
            n for n, spans in enumerate(layout.leaves)
            if n not in self.readers and any(dim in s.dims() for s in spans)
        ]  # fmt: skip
        dtypes = [self.now.flat[self.network.paths[n]].dtype for n in own]
        relative = max(map(rounding, dtypes))
        made = [self.made(affine) for affine in self.proof.affine]
        equal = [self.leaf(n) for n in sorted(self.proof.equal)]
        if not self.proof.proportion:
            equal = [*map(self.leaf, own), *self.constants()]
        if not all(np.isfinite(x).all() for part in made for x in part):
            return None
        classes = []
        for i in range(len(made[0].kernel)):
            parts = [Made(m.kernel[i], m.shift[i]) for m in made]
            kind = _kinds([e[i] for e in equal], made[0].kernel.shape[-1])
            if self.proof.proportion:
                one = in_proportion(parts, kind, relative, tolerance)
            else:
                first = np.unique(kind, return_index=True)[1]
                one = Classes(first[kind], np.ones(len(kind)))
            classes.append(self.stored(i, one, parts))
        return _alike(classes)

    def leaf(self, n: int) -> Array:
        """A leaf's entries: ``(repeats, samples, coordinates)``."""
        return self.shown(self.now.flat[self.network.paths[n]], self.network.layout.leaves[n])

    def shown(self, array: Array, spans: Spans) -> Array:
        cut = Cut(self.site.dim, self.site.beside, self.now.sizes.__getitem__, lambda x: x)
        found = np.asarray(exposed(array.astype(np.float64), spans, cut))
        return found.reshape(-1, *found.shape[-2:])

    def constants(self) -> list[Array]:
        """Constants that differ from coordinate to coordinate."""
        found = []
        for key in self.network.varying:
            held = self.network.layout.constants[key]
            pairs = zip(held.spans, held.varies, strict=True)
            if any(v and self.site.dim in s.dims() for s, v in pairs):
                operand: Any = self.network.layout.makers[key[0]].inputs[key[1]]
                value = self.now.flat.get(self.network.constant(key), operand.value)
                found.append(self.shown(np.asarray(value), held.spans))
        return found

    def made(self, affine: Affine) -> Made:
        """Coordinates with the parameters that meet them: ``(repeats, rows, m)``."""
        kernel = self.leaf(affine.leaf)
        factor, shift = np.ones((len(kernel), 1, kernel.shape[-1])), np.zeros((1, 1, 1))
        for step in affine.steps:
            by = self.parameter(step)
            if step.name in ("mul", "div"):
                by = by if step.name == "mul" else 1 / by
                factor, shift = factor * by, shift * by
            elif step.turned and step.name == "sub":
                factor, shift = -factor, by - shift
            else:
                shift = shift + (by if step.name == "add" else -by)
        return Made(kernel * factor, np.broadcast_to(shift, factor.shape))

    def parameter(self, step: Step) -> Array:
        if step.leaf is not None:
            return self.leaf(step.leaf)
        held, value = self.network.layout.values[step.value], self.values[step.value]
        spans = point_spans(self.network.layout, step.value)
        for n, (span, varies) in enumerate(zip(spans, held.varies, strict=True)):
            if not varies and not span.parts and span.dim not in self.site.beside:
                value = value[(slice(None),) * n + (slice(0, 1),)]
        return self.shown(value, spans)

    def stored(self, repeat: int, classes: Classes, parts: list[Made]) -> Classes:
        """Leaves coordinates alone whose joint weights can't be rounded to their readers'."""
        own = np.arange(len(classes.leader))
        leader = np.where(classes.leader >= 0, classes.leader, own)
        kernel = np.concatenate([part.kernel for part in parts])
        bias = sum(np.abs(part.shift).sum(axis=0) for part in parts)
        bias = bias + (not self.proof.proportion)  # what functions like sigmoid add
        fits = np.ones(len(own), bool)
        for leaf in self.readers:
            rows = self.leaf(leaf)[repeat].T
            merged = np.zeros_like(rows)
            np.add.at(merged, leader, classes.ratio[:, None] * rows)
            fits &= storable(rows, merged, leader, kernel, bias, self.coarsest(leaf))
        alone = (classes.leader >= 0) & ~fits[leader]
        return Classes(np.where(alone, own, classes.leader), np.where(alone, 1.0, classes.ratio))

    def coarsest(self, leaf: int) -> Any:
        """The coarser of the dtypes that a kernel is stored and read in."""
        layout = self.network.layout
        dtypes = [self.now.flat[self.network.paths[leaf]].dtype]
        for reader in self.site.readers:
            if reader.leaf == leaf:
                operand: Any = layout.makers[reader.op].inputs[1 - reader.data]
                dtypes.append(layout.program.avals[operand.id].dtype)
        return coarsest(dtypes)


def _kinds(equal: list[Array], m: int) -> Array:
    """Numbers coordinates so that those with the same entries have the same number."""
    if not equal:
        return np.zeros(m, int)
    return np.unique(np.concatenate(equal), axis=1, return_inverse=True)[1].reshape(-1)


def _alike(classes: list[Classes]) -> list[Classes] | None:
    """Lets every repeat lose as many as the one that can lose least; None if that is none."""
    own = np.arange(len(classes[0].leader))
    lost = [np.flatnonzero(one.leader != own) for one in classes]
    least = min(len(own) - 1, *map(len, lost))
    if not least:
        return None
    found = []
    for one, gone in zip(classes, lost, strict=True):
        back = np.isin(own, gone[least:])
        found.append(Classes(np.where(back, own, one.leader), np.where(back, 1.0, one.ratio)))
    return found


def _choice(site: Site, classes: list[Classes]) -> Choice:
    """The fold that keeps representatives."""
    m = len(classes[0].leader)
    kept = np.stack([np.flatnonzero(one.leader == np.arange(m)) for one in classes])
    decode = np.zeros((len(classes), kept.shape[1], m))
    for own, at, one in zip(decode, kept, classes, strict=True):
        live = np.flatnonzero(one.leader >= 0)
        own[np.searchsorted(at, one.leader[live]), live] = one.ratio[live]
    nothing, points = np.zeros((len(classes), m)), len(site.points)
    linear = np.zeros((len(classes), m, 0))
    return Choice(kept, linear, None, (decode,) * points, (nothing,) * points, 0.0)
