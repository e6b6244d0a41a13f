"""A plan carried out in place, all leaves as large as they were, so that parts of it can be undone.

What reads a site rebuilds its coordinates from those that stay, ``W`` becoming ``P W`` with zeros
for coordinates that go; what a site's linear coordinates need stands beside; a kernel in two
factors is their product. That is the function of the folded network, whatever the widths: one
compiled program serves all plans, and part of a change is a fold of part of it. Streams that norms
run over alone are narrowed for good.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.sites import Site
from linjax.dims.spelled import spelled
from linjax.evidence.points import Read
from linjax.fold.engine.choose import Choice, whole
from linjax.fold.engine.problem import Site as Problem
from linjax.fold.factors import placed
from linjax.fold.plans.factored import factors_of, refilled
from linjax.fold.plans.pricing import Problems
from linjax.fold.rewrite import Halves, result_lacks, write
from linjax.fold.shifts import shifted_result
from linjax.fold.written import Written, along, begun, mixing
from linjax.program import pytree

Array = np.ndarray


class InPlace(NamedTuple):
    """A network before and after a plan, in leaves of the same shapes.

    Attributes:
      before: leaves of the network as it is.
      factored: those with kernels factored alone.
      after: those with sites folded, too.
      kernels: by leaf the kernels, by their places in the plan, that ``factored`` changes it for.
      sites: by leaf the sites that ``after`` changes it for.
      streams: sites that are folded in all three: a norm runs over them, and sums what is there.
    """

    before: pytree.Flat
    factored: pytree.Flat
    after: pytree.Flat
    kernels: dict[pytree.Path, set[int]]
    sites: dict[pytree.Path, set[int]]
    streams: tuple[int, ...]


def in_place(
    network: Network, flat: pytree.Flat, problems: Problems, choices: Sequence[Choice],
    ranks: Sequence[int],
) -> InPlace:  # fmt: skip
    """Carries out a plan at the widths that a network has.

    Args:
      network: the traced network.
      flat: its leaves.
      problems: its sites and kernels.
      choices: what every site keeps, by points of the problem.
      ranks: of the kernels, 0 for those that stay whole.
    """
    begins = begun(network, spelled(network, flat))
    kernels: dict[pytree.Path, set[int]] = {}
    factored = begins
    for n, (kernel, rank) in enumerate(zip(problems.kernels, ranks, strict=True)):
        if rank:
            both, lacking = factors_of(kernel, rank, problems.problems, choices, problems.points)
            changed = _multiplied(network, factored, kernel.read, both, lacking)
            _told(kernels, n, factored.flat, changed.flat)
            factored = changed
    own = [c.by_site(p) for c, p in zip(choices, problems.points, strict=True)]
    folded = problems.folded(own)
    before, between, after, sites = begins, factored, factored, dict[pytree.Path, set[int]]()
    for kernel, rank in zip(problems.kernels, ranks, strict=True):
        if kernel.patches is None or rank:
            continue
        changed = refilled(network, after, kernel, problems.problems, choices, problems.points)
        for n in {part.site for part in kernel.patches.parts} & set(folded):
            _told(sites, n, after.flat, changed.flat)
        after = changed
    for n in folded:
        site, problem, choice = problems.sites[n], problems.problems[n], own[n]
        if site.norms is not None:
            before, between, after = (
                write(network, now, site, choice) for now in (before, between, after)
            )
            continue
        if problem.kind == "aligned" and not site.readers:
            changed = _masked(network, after, site, choice, problem)
        else:
            same = whole(problem, choice.linear.shape[-1]).by_site(problems.points[n])
            same = same._replace(linear=choice.linear)
            before, between = (write(network, now, site, same) for now in (before, between))
            changed = write(network, after, site, _rebuilding(choice, same))
        _told(sites, n, after.flat, changed.flat)
        after = changed
    new = {network.extra(leaf, "linear") for leaf in range(len(network.paths))} - set(begins.flat)
    first, middle = (_like(after.flat, own.flat, new) for own in (before, between))
    streams = tuple(n for n in folded if problems.sites[n].norms is not None)
    return InPlace(first, middle, after.flat, kernels, sites, streams)


def _told(
    found: dict[pytree.Path, set[int]], n: int, before: pytree.Flat, after: pytree.Flat
) -> None:
    """Notes the leaves that something has changed, or put beside others."""
    for path, leaf in after.items():
        old = before.get(path)
        if leaf is not old and (old is None or not np.array_equal(leaf, old)):
            found.setdefault(path, set()).add(n)


def _multiplied(
    network: Network, now: Written, read: Read, both: Halves, lacking: Array
) -> Written:
    """Returns the network with the product of a kernel's factors in its place."""
    path = network.paths[network.kernels[read.op].leaf]
    shape, dtype = now.flat[path].shape, now.flat[path].dtype
    kernel = placed(network, read.frame, shape, both.down @ both.up, dtype)
    change = result_lacks(network, read, shape, lacking)
    now = now._replace(flat={**now.flat, path: kernel})
    return shifted_result(network, now, read.op, change)


def _rebuilding(choice: Choice, every: Choice) -> Choice:
    """A choice that keeps all coordinates, and reads those alone that another kept."""
    if choice.basis is not None:
        decoders = [choice.basis @ own for own in choice.decode]
        return every._replace(decode=tuple(decoders), offset=choice.offset)
    decoders, (k, width) = [], (choice.kept.shape[-1], every.kept.shape[-1])
    for own, wide in zip(choice.decode, every.decode, strict=True):
        rebuilt = np.zeros(wide.shape)
        np.put_along_axis(rebuilt, choice.kept[:, :, None], own[:, :k], axis=1)
        rebuilt[:, width:] = own[:, k:]
        decoders.append(rebuilt)
    return every._replace(decode=tuple(decoders), offset=choice.offset)


def _masked(
    network: Network, now: Written, site: Site, choice: Choice, problem: Problem
) -> Written:
    """Returns the network with coordinates that go being zero wherever they are made."""
    mask = np.zeros((problem.repeats, problem.width))
    np.put_along_axis(mask, choice.kept, 1.0, axis=1)
    change = mixing(site, mask[:, :, None] * np.eye(problem.width))
    flat = dict(now.flat)
    for leaf, spans in enumerate(network.layout.leaves):
        path = network.paths[leaf]
        if path in flat and any(site.dim in s.dims() for s in spans):
            flat[path] = along(network, now, site, leaf, flat[path], change)
    return now._replace(flat=flat)


def _like(after: pytree.Flat, own: pytree.Flat, made: set[pytree.Path]) -> pytree.Flat:
    """Leaves as others are: what makes new linear coordinates is there from the first."""
    return {
        path: value if path in made else own.get(path, np.zeros_like(value))
        for path, value in after.items()
    }
