"""What every width of every site, and every rank of a kernel, costs in predicted output error."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from linjax.dims.borders import padded
from linjax.dims.network import Network
from linjax.dims.sites import Form, Site
from linjax.dims.spelled import spelled
from linjax.errors import EvidenceError
from linjax.evidence.moments import PointMoments, about_zero
from linjax.evidence.points import reads
from linjax.evidence.stats import Stats
from linjax.fold.engine.choose import Choice, choose
from linjax.fold.engine.path import Caution, Prices
from linjax.fold.engine.plan import Curve, Plan, curve, ridges, room, shrinkage
from linjax.fold.engine.problem import Moments, Point
from linjax.fold.engine.problem import Site as Problem
from linjax.fold.engine.sharing import at_once
from linjax.fold.engine.surface import Surface, all_surfaces
from linjax.fold.plans.costs import Folded, folded_so_far, terms_of
from linjax.fold.plans.factored import Kernel, error_curve, kernels_of
from linjax.fold.plans.streamed import streamed
from linjax.fold.plans.travelling import with_noise
from linjax.fold.rules import Least, stays, unmatched
from linjax.program import pytree

Array = np.ndarray

CAUTION = Caution(convexity=2.0)
"""Errors that are a large share of what a site is worth are dearer than they seem."""


Memory = dict[int, tuple[tuple[int, int, float], Choice]]
"""By a site's place its widths and shrinkage, and what it keeps with these."""


class Problems(NamedTuple):
    """The sites of a plan, in the order of execution, and the problems that folding them is.

    Attributes:
      sites: the sites.
      problems: by site.
      points: by site, which of the problem's points each point of the site is.
      kernels: those that may be factored.
      before: what earlier folds have left of the network.
    """

    sites: tuple[Site, ...]
    problems: tuple[Problem, ...]
    points: tuple[tuple[int, ...], ...]
    kernels: tuple[Kernel, ...]
    before: Folded

    def traced(self, network: Network, flat: pytree.Flat) -> "Problems":
        """The same in a network traced anew: for other rows its values have other numbers."""
        found = {network.kernels[read.op].leaf: read for read in reads(network)}
        kernels = tuple(own._replace(read=found[own.leaf]) for own in self.kernels)
        before = folded_so_far(network, flat)
        return self._replace(sites=network.foldable, kernels=kernels, before=before)

    def folded(self, choices: Sequence[Choice]) -> list[int]:
        """Places of the sites that become something else by what they keep."""
        pairs = enumerate(zip(self.problems, choices, strict=True))
        return [n for n, (problem, own) in pairs if own.changes(problem.width)]


def problems_of(flat: pytree.Flat, stats: Stats) -> Problems:
    """Turns evidence into problems."""
    network, sites = stats.network, stats.network.foldable
    pairs = zip(sites, stats.points, strict=True)
    made = [_problem(network, flat, site, own) for site, own in pairs]
    kernels = kernels_of(network, spelled(network, flat), stats.kernels)
    points = tuple(index for _, index in made)
    problems = with_noise(sites, [problem for problem, _ in made], points, kernels)
    return Problems(sites, problems, points, kernels, folded_so_far(network, flat))


def _problem(
    network: Network, flat: pytree.Flat, site: Site, points: tuple[PointMoments, ...]
) -> tuple[Problem, tuple[int, ...]]:
    if site.norms is not None:
        return streamed(network, flat, site, site.norms, points), tuple(range(len(points)))
    groups = [_grouped(network, site)[n] for n in site.told]
    own = [_bordered(points[n], padded(network, site, site.points[n])) for n in site.told]
    if site.opposite:  # nothing makes up for a mean that is lost
        own = list(map(about_zero, own))
    joined = [
        _joined([own[j] for j in range(len(own)) if groups[j] == g]) for g in sorted(set(groups))
    ]
    kind: Any = {Form.STRAIGHT: "straight", Form.PAIRED: "aligned"}.get(site.form, "bent")
    problem = Problem(
        name=site.name,
        width=points[0].metric.shape[-1],
        repeats=int(np.prod([network.layout.traced[d] for d in site.beside], dtype=int)),
        kind="paired" if site.opposite else "aligned" if site.fixed else kind,
        points=tuple(joined),
        sources=points[0].mean.shape[-1] > points[0].metric.shape[-1],
        least=1,
    )
    index = groups if len(site.told) == len(site.points) else (0,) * len(site.points)
    return problem, tuple(index)


def _grouped(network: Network, site: Site) -> tuple[int, ...]:
    """Points whose readers share a kernel are one: it is rewritten once."""
    of_leaf: dict[int, int] = {}
    group = list(range(len(site.points)))
    for reader in site.readers:
        operand: Any = network.layout.makers[reader.op].inputs[reader.data]
        at = site.points.index(operand.id)
        if reader.leaf in of_leaf:
            group[at] = group[of_leaf[reader.leaf]]
        elif reader.leaf is not None:
            of_leaf[reader.leaf] = at
    names = {g: n for n, g in enumerate(dict.fromkeys(group))}
    return tuple(names[g] for g in group)


def _bordered(point: PointMoments, share: float) -> PointMoments:
    """Moments of what is read where that is zero in some share of the reads."""
    if not 0 < share < 1:
        return point
    count = point.count / (1 - share)
    between = point.mean[..., :, None] * point.mean[..., None, :]
    return point._replace(
        count=count,
        mean=(1 - share) * point.mean,
        scatter=point.scatter + (share * point.count)[:, None, None, None] * between,
        places=point.places / (1 - share),
    )


def _joined(points: list[PointMoments]) -> Point:
    """One point of several whose samples are of one kind."""
    if len(points) == 1:  # may be in a file, and is read when it is needed
        own = points[0]
        covariance = own.scatter / own.count[:, None, None, None]
        return Point(Moments(own.count, own.mean, covariance), own.metric * float(own.places))
    count = sum(p.count for p in points)
    mean = sum(p.count[:, None, None] * p.mean for p in points) / count[:, None, None]
    scatter = sum(p.scatter for p in points)
    for p in points:
        apart = p.mean - mean
        scatter = scatter + p.count[:, None, None, None] * apart[..., :, None] * apart[..., None, :]
    metric = sum(p.places * p.metric for p in points)
    return Point(Moments(count, mean, scatter / count[:, None, None, None]), metric)


class Errors(NamedTuple):
    """What widths and ranks cost in predicted output error, whatever is counted.

    Attributes:
      surfaces: of the sites, by shrinkage.
      ranks: of the kernels.
    """

    surfaces: dict[float, tuple[Surface, ...]]
    ranks: tuple[Array, ...]


def errors_of(stats: Stats, found: Problems, mesh: Mesh | None = None) -> Errors:
    """Measures all widths and ranks on rows that nothing is fitted to.

    Args:
      stats: the evidence.
      found: the problems that were made of it.
      mesh: whose processes share the work.

    Raises:
      EvidenceError: if the evidence's numbers aren't finite, or there are no rows.
    """
    if not np.isfinite(float(stats.variation)):
        raise EvidenceError("the outputs' variation isn't finite; check inputs and parameters")
    weights = ridges(found.problems)
    own = [tuple(dict.fromkeys(shrinkage(p, ridge) for ridge in weights)) for p in found.problems]
    measured = all_surfaces(found.problems, own, mesh)
    by_weight = {
        ridge: tuple(
            own[shrinkage(problem, ridge)]
            for own, problem in zip(measured, found.problems, strict=True)
        )
        for ridge in weights
    }
    costs = [float(max(kernel.matrix.shape)) ** 3 for kernel in found.kernels]
    return Errors(by_weight, tuple(at_once(error_curve, found.kernels, costs)))


def priced(
    stats: Stats, found: Problems, errors: Errors, of: str, round_to: int, least: Least
) -> tuple[Curve, ...]:
    """Prices all widths, and follows the path to the smallest network; once for each shrinkage.

    Args:
      stats: the evidence.
      found: the problems that were made of it.
      errors: of their widths.
      of: what is counted.
      round_to: widths are multiples of this, unless all are kept.
      least: what stays at least.

    Raises:
      LinjaxError: if ``least`` names no layer.
    """
    index = {site.dim: n for n, site in enumerate(found.sites)}
    ranks = {kernel.leaf: n for n, kernel in enumerate(found.kernels)}
    terms = terms_of(stats.network, index, ranks, of, found.before)
    names = [stats.network.names[kernel.leaf] for kernel in found.kernels]
    called = [_called(stats.network, site) for site in found.sites]
    unmatched(least, [*names, *itertools.chain(*called)])
    ranked = tuple(
        np.zeros(1) if stays(least, name, 1) else own
        for own, name in zip(errors.ranks, names, strict=True)
    )
    problems = [
        problem._replace(
            multiple=round_to,
            least=max(problem.least, *(stays(least, name, problem.width) for name in own)),
        )
        for problem, own in zip(found.problems, called, strict=True)
    ]
    curves = []
    for ridge, measured in errors.surfaces.items():
        rooms = tuple(
            room(
                p,
                own,
                fixed=p.least >= p.width or site.dim in found.before.vanished or _uneven(site, p),
            )
            for site, p, own in zip(found.sites, problems, measured, strict=True)
        )
        prices = Prices(rooms, ranked, terms, multiple=round_to, caution=CAUTION)
        curves.append(curve(ridge, prices, float(stats.variation)))
    return tuple(curves)


def _called(network: Network, site: Site) -> tuple[str, ...]:
    """What a site is called: by the layers that make it, unless these add up to a stream."""
    leaves = () if site.stream else (maker.leaf for maker in site.makers)
    return site.name, *(network.names[leaf] for leaf in leaves if leaf is not None)


def _uneven(site: Site, problem: Problem) -> bool:
    """Whether repeats have linear coordinates already: they would keep unlike numbers of them."""
    return site.linear and not problem.sources and problem.repeats > 1


def chosen(found: Problems, plan: Plan, before: Memory | None = None) -> list[Choice]:
    """What every site keeps under a plan, by points of the problem.

    Args:
      found: the problems.
      plan: the plan.
      before: what sites kept last, by their places: those that keep as much aren't looked at
        again, and the others take their place in it.
    """
    before = {} if before is None else before
    widths = zip(found.problems, plan.state.units, plan.state.linears, strict=True)
    keys = [(k, r, shrinkage(problem, plan.shrinkage)) for problem, k, r in widths]
    due = [n for n, key in enumerate(keys) if n not in before or before[n][0] != key]
    costs = [float(found.problems[n].repeats * found.problems[n].coordinates ** 3) for n in due]
    made = at_once(lambda n: choose(found.problems[n], *keys[n]), due, costs)
    before.update((n, (keys[n], choice)) for n, choice in zip(due, made, strict=True))
    return [before[n][1] for n in range(len(found.problems))]
