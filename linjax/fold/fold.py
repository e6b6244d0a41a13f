"""``fold``: parameters and evidence in, a smaller pytree out."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.dims.sizes import read_sizes
from linjax.errors import EvidenceError, LinjaxError, warn
from linjax.evidence.bounds import Bounds, fingerprint
from linjax.evidence.given import as_values
from linjax.evidence.moved import moved
from linjax.evidence.stats import Stats
from linjax.fold.chained import published, transform
from linjax.fold.frontier import Frontier, known_or_made
from linjax.fold.lossless import exact
from linjax.fold.matching import matching
from linjax.fold.report import Report, SiteChange
from linjax.fold.rules import PublishedSize, Rule, Size, Threshold, Tolerance, above
from linjax.fold.threads import one_thread
from linjax.program import pytree
from linjax.program.count import count

DEFAULT = Tolerance(0.01)
RUIN = 0.5
"""Relative output error from which on a fold to a size is warned of."""
ENOUGH = 0.1
"""Relative output error that is named as a way out."""

Evidence = Stats | Frontier | Bounds


def fold(
    params: Any,
    evidence: Evidence,
    rule: Rule | None = None,
    *,
    rewritings: tuple[str, ...] = exact.DEFAULT,
    details: bool = False,
) -> Any:
    """Makes a network smaller without retraining, by the linearity of its units.

    By the published rules (:func:`threshold`, :func:`published_size`) units that are
    almost always on lose their activation, ``σ(z_S) := z_S``, and travel on a residual
    path. By :func:`size` and :func:`tolerance` the units to keep, the linear units beside
    them and the next layer's kernel are chosen together so that the next pre-activation
    is reproduced best on the calibration set, by least squares in the output metric.

    By :class:`Bounds` the fold is exact on their box: units that are proven off are
    removed, those proven on are replaced by as few linear units as their maps have rank,
    or by a residual path, from the last layer to the first.

    Args:
      params: the pytree that the evidence was collected on, in any floating dtype; it is
        not changed.
      evidence: :class:`Stats` of :func:`collect`, :class:`Bounds` of :func:`certify`, or,
        where several sizes are wanted, the :class:`Frontier` of :func:`frontier`.
      rule: for Stats a threshold, a size or a tolerance; by default ``tolerance(0.01)``.
      rewritings: for Bounds the exact rewritings to use, all by default; those of the 2020
        paper are ``("inactive", "dependent", "fold_layer", "collapse")``.
      details: as :func:`fold_and_report`; deprecated, since what is returned depends on it.

    Returns:
      A nested dict of arrays of the same dtype, for ``net.apply``; or ``params`` itself,
      with a :class:`FoldWarning`, where nothing could be made smaller. One tells, too, if a
      size leaves little of the network: a predicted error of a half or more.

    Raises:
      StructureError: if params isn't the network of the evidence, naming the path and the
        expected shape.
      EvidenceError: if the evidence is of another kind, lacks what the rule needs, or was
        collected on parameters that had been folded already.
      LinjaxError: if rule isn't a rule, or is given beside Bounds; if a size is below that of
        the smallest network that there is, which is named.

    References:
      Dobler and Lemmerich, Linearity-based neural network compression, 2025,
      arXiv 2506.21146. Serra, Kumar and Ramalingam, Lossless compression of deep neural
      networks, 2020, arXiv 2001.00218.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"] + p["shift"]) @ p["out"]
      >>> params = {"in": jnp.ones((2, 50)), "shift": jnp.full(50, 9.0), "out": jnp.ones((50, 3))}
      >>> x = jnp.array([[1.0, -1.0], [3.0, -2.0]])
      >>> net = linjax.trace(apply, params, x)
      >>> folded = linjax.fold(params, linjax.collect(net, params, [x]), linjax.threshold(1.0))
      >>> linjax.count(params), linjax.count(folded)
      (300, 9)
      >>> bool(jnp.allclose(net.apply(folded, x), apply(params, x)))
      True
    """
    found = fold_and_report(params, evidence, rule, rewritings=rewritings)
    if details:
        warn("details=True: use linjax.fold_and_report", DeprecationWarning)
        return found
    return found.params


class Folded(NamedTuple):
    """Folded parameters, and what was done; of :func:`fold_and_report`."""

    params: Any
    report: Report


@one_thread()
def fold_and_report(
    params: Any,
    evidence: Evidence,
    rule: Rule | None = None,
    *,
    rewritings: tuple[str, ...] = exact.DEFAULT,
) -> Folded:
    """Folds as :func:`fold` does, and says what became of every site.

    Args:
      params, evidence, rule, rewritings: as for :func:`fold`.

    Returns:
      :class:`Folded`: the parameters that :func:`fold` returns, and a :class:`Report`; printed, a
      table of units kept, linear units, parameters, the predicted error.

    Raises:
      StructureError, EvidenceError, LinjaxError: as :func:`fold`.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda params, x: jax.nn.relu(x @ params["in"]) @ params["out"]
      >>> params = {"in": jnp.eye(3), "out": jnp.ones((3, 2))}
      >>> x = jnp.array([[1.0, -1.0, 2.0], [3.0, -2.0, 1.0]])
      >>> stats = linjax.collect(linjax.trace(apply, params, x), params, [x])
      >>> small, report = linjax.fold_and_report(params, stats, linjax.threshold(1.0))
      >>> report.before, report.after == linjax.count(small)
      (15, True)
    """
    if isinstance(evidence, Bounds):
        if rule is not None:
            raise LinjaxError(f"{rule} needs Stats; Bounds fold exactly, without a rule")
    elif not isinstance(evidence, Stats | Frontier):
        raise EvidenceError(f"expected Stats, Frontier or Bounds, got {type(evidence).__name__}")
    about = evidence.stats if isinstance(evidence, Frontier) else evidence
    as_values(params)
    if not matching(params, about):
        return Folded(params, unchanged(params, about, rule))
    if isinstance(evidence, Stats) and (far := moved(params, evidence.sketch)):
        warn(far)
    folded, report = _dispatch(params, evidence, DEFAULT if rule is None else rule, rewritings)
    report = report._replace(rule=_named(evidence, rule, rewritings), evidence=_told(about))
    cheaper = isinstance(rule, Size) and rule.of == "flops" and _narrower(folded, params)
    if report.after >= report.before and not cheaper:
        _nothing(report, "the bounds" if isinstance(evidence, Bounds) else report.rule)
        folded, report = params, unchanged(params, about, rule)
    return Folded(folded, report)


def _narrower(folded: Any, params: Any) -> bool:
    """Whether some leaf has another shape: a few parameters may be worth many operations."""
    shapes = [{p: jnp.shape(x) for p, x in pytree.flatten(t).items()} for t in (folded, params)]
    return shapes[0] != shapes[1]


def _named(evidence: Stats | Frontier | Bounds, rule: Rule | None, rules: tuple[str, ...]) -> str:
    if isinstance(evidence, Bounds):
        return f"exact: {', '.join(rules)}"
    return str(DEFAULT if rule is None else rule)


def _told(evidence: Stats | Bounds) -> str:
    """What evidence is about, in a line that can travel with the parameters."""
    if isinstance(evidence, Bounds):
        low, high = np.min(evidence.lower), np.max(evidence.upper)
        return f"certificate for a box of {len(evidence.lower)} inputs in [{low:g}, {high:g}]"
    counts = [u.count for u in evidence.seen]
    samples = max(map(int, counts), default=0)
    return f"statistics of {samples:,} samples"


@one_thread()
def _dispatch(
    params: Any,
    evidence: Stats | Frontier | Bounds,
    rule: Rule,
    rules: tuple[str, ...],
) -> tuple[Any, Report]:
    if isinstance(evidence, Bounds):
        if fingerprint(params) != evidence.fingerprint:
            raise EvidenceError(
                "the bounds were proven for other values of these parameters; certify these"
            )
        flat = evidence.flatten(params)
        return transform(params, flat, evidence.graph, exact.exact_rewrite(evidence, rules))
    if isinstance(rule, Threshold | PublishedSize):
        stats = evidence.stats if isinstance(evidence, Frontier) else evidence
        return published(params, stats, rule)
    if isinstance(rule, Size | Tolerance):
        return _least_squares(params, evidence, rule)
    raise LinjaxError(f"{rule!r} is no rule: use linjax.threshold, size or tolerance")


def _least_squares(
    params: Any, evidence: Stats | Frontier, rule: Size | Tolerance
) -> tuple[Any, Report]:
    """Folds all sites together: they share the budget."""
    known = known_or_made(params, evidence)
    plan = known.plan(rule)
    _warn_of_ruin(known, rule, plan.error)
    small, changes = known.carried_out(params, plan)
    report = Report(known.stats.graph, changes, count(params), count(small), plan.error)
    return small, report._replace(network=known.stats.network)


def _warn_of_ruin(known: Frontier, rule: Size | Tolerance, error: float) -> None:
    if isinstance(rule, Size) and error >= RUIN:
        warn(ruin(known, rule, f"predicted relative output error {error:.2g}"))


def ruin(known: Frontier, rule: Size, error: str) -> str:
    """Says that little is left of a network, and at which size more would be."""
    asked = above(known.enough(rule, ENOUGH))
    asked += f', of="{rule.of}"' if rule.of != "parameters" else ""
    return (
        f"{rule}: {error}, so that little is left of what the network computes; from "
        f"linjax.size({asked}) on at most {ENOUGH} is predicted"
    )


def unchanged(params: Any, evidence: Stats | Bounds, rule: Rule | None) -> Report:
    """Reports that nothing was done."""
    if isinstance(evidence, Bounds) or isinstance(rule, Threshold | PublishedSize):
        source = evidence if isinstance(evidence, Bounds) else evidence.network
        flat = source.flatten(params)
        return transform(params, flat, evidence.graph, lambda _, layers: layers)[1]
    network, before = evidence.network, count(params)
    sizes = read_sizes(network, network.flatten(params))
    sites = {}
    for site in network.foldable:
        kept = np.arange(sizes.all(site.dim))
        if site.beside:
            repeats = math.prod(network.layout.traced[dim] for dim in site.beside)
            kept = np.broadcast_to(kept, (repeats, len(kept)))
        residual = site.dim in sizes.ways and any(sizes.ways[site.dim].carried)
        sites[site.name] = SiteChange(kept.shape[-1], kept, 0, residual)
    return Report(evidence.graph, sites, before, before, network=network)


def _nothing(report: Report, what: str) -> None:
    warn(
        f"nothing was folded: {what} can't make the network smaller "
        f"({report.before:,} parameters, {report.after:,} when folded)"
    )
