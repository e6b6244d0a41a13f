"""What every width of every site costs in predicted output error."""

from typing import Any, NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.sites import Form, Site
from linjax.evidence.points import Evidence, PointMoments
from linjax.fold.costs import terms_of
from linjax.fold.engine import factor as factors
from linjax.fold.engine.choose import Choice, choose
from linjax.fold.engine.path import Caution, Prices
from linjax.fold.engine.plan import Curve, Plan, curve, ridges, room
from linjax.fold.engine.problem import Moments, Point
from linjax.fold.engine.problem import Site as Problem
from linjax.fold.engine.surface import surface

Array = np.ndarray


class Problems(NamedTuple):
    """The sites of a plan, in the order of execution, and the problems that folding them is.

    Attributes:
      sites: the sites.
      problems: by site.
      points: by site, which of the problem's points each point of the site is.
      kernels: leaves of the kernels that may be factored, in the order of the plan's ranks.
    """

    sites: tuple[Site, ...]
    problems: tuple[Problem, ...]
    points: tuple[tuple[int, ...], ...]
    kernels: tuple[int, ...]


def problems_of(network: Network, evidence: Evidence) -> Problems:
    """Turns evidence into problems."""
    sites = tuple(s for s in network.sites if s.form in (Form.BENT, Form.STRAIGHT, Form.PAIRED))
    made = [_problem(network, site, evidence.points[site.name]) for site in sites]
    kernels = tuple(evidence.kernels)
    return Problems(sites, tuple(p for p, _ in made), tuple(i for _, i in made), kernels)


def _problem(
    network: Network, site: Site, points: tuple[PointMoments, ...]
) -> tuple[Problem, tuple[int, ...]]:
    if site.form is Form.PAIRED:  # what one side loses, the other loses with it
        points = points[:1]
    groups = _grouped(network, site)[: len(points)]
    joined = [_joined([points[j] for j in range(len(points)) if groups[j] == g]) for g in sorted(set(groups))]
    kind: Any = {Form.STRAIGHT: "straight", Form.PAIRED: "aligned"}.get(site.form, "bent")
    problem = Problem(
        name=site.name,
        width=site.width,
        repeats=int(np.prod([network.layout.traced[d] for d in site.beside], dtype=int)),
        kind="aligned" if site.fixed else kind,
        points=tuple(joined),
        sources=site.linear,
        least=1,
    )
    index = groups if site.form is not Form.PAIRED else (0,) * len(site.points)
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


def _joined(points: list[PointMoments]) -> Point:
    """One point of several whose samples are of one kind."""
    count = sum(p.count for p in points)
    mean = sum(p.count[:, None, None] * p.mean for p in points) / count[:, None, None]
    scatter = sum(p.scatter for p in points)
    for p in points:
        apart = p.mean - mean
        scatter = scatter + p.count[:, None, None, None] * apart[..., :, None] * apart[..., None, :]
    metric = sum(p.places * p.metric for p in points)
    return Point(Moments(count, mean, scatter / count[:, None, None, None]), metric)


def priced(
    network: Network, evidence: Evidence, found: Problems, of: str = "parameters",
    prices: dict[str, float] | None = None,
) -> tuple[Curve, ...]:  # fmt: skip
    """Prices all widths, and follows the path to the smallest network; once for each shrinkage."""
    index = {site.dim: n for n, site in enumerate(found.sites)}
    ranks = {leaf: n for n, leaf in enumerate(found.kernels)}
    terms = terms_of(network, index, ranks, of)
    curves = []
    for ridge in ridges(found.problems):
        rooms = tuple(
            room(p, surface(p, ridge), (prices or {}).get(p.name, 1.0)) for p in found.problems
        )
        necks = tuple(_neck(evidence, leaf) for leaf in found.kernels)
        made = Prices(rooms, necks, terms, caution=Caution(1.0, 1.0))
        curves.append(curve(ridge, made, evidence.variation))
    return tuple(curves)


def _neck(evidence: Evidence, leaf: int) -> Array:
    own = evidence.kernels[leaf]
    covariances = own.scatter / own.count[:, None, None]
    test = covariances[-1]
    return own.places * factors.curve(covariances[0], test, own.kernel, own.metric)


def chosen(found: Problems, plan: Plan) -> list[Choice]:
    """What every site keeps under a plan, by point of the site."""
    choices = []
    for problem, points, k, r in zip(
        found.problems, found.points, plan.state.units, plan.state.linears, strict=True
    ):
        choice = choose(problem, k, r, plan.ridge)
        choices.append(
            choice._replace(
                decode=tuple(choice.decode[p] for p in points),
                offset=tuple(choice.offset[p] for p in points),
            )
        )
    return choices
