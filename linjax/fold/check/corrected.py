"""A budget that checks itself: prices corrected by what their plan is measured to do.

Predictions are of the first order, and add up errors of places and layers as if these were
independent. Where they reinforce each other (neighbouring places of an image, what adds to one
stream) a plan of least predicted error is one of much larger error: it cuts where prices are too
low. So a plan is carried out on some rows, every site's and kernel's share of the measured error
is told (:mod:`linjax.fold.check.shares`), prices are multiplied by measured over predicted, and
what is planned next is measured again. As predictions are of rows that nothing was fitted to, so
are measurements: choices are made on the first fold of the evidence's rows, and the others tell.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from linjax.errors import EvidenceError
from linjax.evidence.effort import costs
from linjax.evidence.given import as_batches, as_net
from linjax.evidence.stats import Stats
from linjax.fold.check.in_place import in_place
from linjax.fold.check.shares import NODES, Goals, Shares, goals, shares
from linjax.fold.engine.plan import Curve, Plan
from linjax.fold.engine.problem import in_fold, of_fold
from linjax.fold.frontier import Frontier, known_or_made
from linjax.fold.plans.factored import Kernel
from linjax.fold.plans.pricing import Errors, Memory, Problems, chosen
from linjax.fold.rows import Batch, in_rows, load, repeatable, size_of
from linjax.fold.rules import Size, Tolerance, planned
from linjax.fold.threads import one_thread
from linjax.net import Net

Array = np.ndarray

WITHOUT = "fold by linjax.frontier(params, stats), whose prices nothing has corrected"
"""What to do where inputs aren't rows."""
ROUNDS = 6
"""Plans that are measured, at most."""
PATIENCE = 2
"""Plans in a row that are no better than the best before, after which no other is tried."""
ROWS = (64, 512)
"""Rows that they are measured on, at least where there are so many, and at most."""
WORK = 5e11
"""Operations that all measurements may take, where these are enough for the fewest rows."""
TOLD = 1e-3
"""Share of the predicted error from which on a part's own is told."""
FIRM = 0.1
"""Weight of a part's share being as all others', beside what is measured."""
APART = 30.0
"""How far a part's price is corrected apart from all others', at most."""
FAINT = 1e-2
"""Share of the predicted error that a part is taken to have at least."""
FIRST = 2
"""Parts priced rightly that are taken to stand beside those that are told."""
EXACT = 4e-4
"""Twice the divergence that isn't worth planning better for."""
RIGHT = 1.5
"""Prices that are all right up to this factor, one against another, need no correction."""


class Tried(NamedTuple):
    """A plan that was measured, and the factors of the prices that it was made by."""

    plan: Plan
    shares: Shares
    factors: Array
    predicted: Array


@one_thread()
def corrected(
    net: Net,
    params: Any,
    evidence: Stats | Frontier,
    batches: Iterable[Any] | Callable[[], Iterable[Any]],
    rule: Size | Tolerance,
) -> Frontier:
    """Corrects what widths and ranks are predicted to cost by what a plan is measured to do.

    Let p be the predicted squared errors of a plan's parts and a what they have to do with the
    measured divergence, ``Σ a = 2 E KL`` (for a regression ``E ‖δ‖²``). Prices are multiplied by
    a / p, parts that the plan leaves alone by the geometric mean of that; what is planned then is
    measured again, up to six times. Of the plans of a size that of least divergence
    is the one that the result has for the rule, and its predicted error is the measured one.
    Measure what it gains, by :func:`compare` on other rows: prices that are right for 64 rows
    aren't always better ones for all.

    Args:
      net: the traced network.
      params: its parameters.
      evidence: of :func:`collect` on these, or their :func:`frontier`.
      batches: rows to measure on, as for :func:`compress`; 64 to 512 of them are used.
      rule: :func:`size` or :func:`tolerance`, which the plan is for.

    Returns:
      A frontier, evidence for :func:`fold`; the one given, where nothing is folded, or where
      outputs change without derivatives.

    Raises:
      EvidenceError: if batches can be read only once, aren't rows, or are a single one.
      StructureError, LinjaxError: as :func:`fold`.

    References:
      Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, 2017,
      arXiv 1703.01365.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> params = {"in": jax.random.normal(keys[0], (4, 32)),
      ...           "out": jax.random.normal(keys[1], (32, 3))}
      >>> x = jax.random.normal(keys[2], (400, 4))
      >>> net = linjax.trace(apply, params, x)
      >>> stats, half = linjax.collect(net, params, [x]), linjax.size(0.5)
      >>> known = linjax.corrected(net, params, stats, [x], half)
      >>> small = linjax.fold(params, known, half)
      >>> linjax.compare(net, params, small, [x]).error < 1.5 * known.plan(half).error
      True
    """
    as_net(net)
    planned(rule)
    as_batches(net, batches, started=True)
    again = repeatable(batches)
    in_rows(net, params, again, WITHOUT)
    known = known_or_made(params, evidence)
    rows = load(net, batches, folds=_folds(known))
    if not size_of(rows):
        raise EvidenceError("batches: one row; every other one is measured on, give two or more")
    some = goals(net, params, _some(net, rows))
    before = known.of(rule)[0].prices
    counts = len(before.sites), len(before.kernels)
    factors, seen = np.ones(sum(counts)), np.zeros(sum(counts), bool)
    tried, memory, own = list[Tried](), Memory(), known
    fitted = _fitted(known.problems)
    for _ in range(ROUNDS):
        plan = own.plan(rule)
        if plan.state in [before.start, *(t.plan.state for t in tried)]:
            break
        predicted = _predicted(known.of(rule), plan)
        found = _measured(net, params, known, fitted, plan, some, memory)
        tried.append(Tried(plan, found, factors, predicted))
        factors, seen, right = _next(factors, seen, tried[-1])
        least = min(t.shares.total for t in tried)
        stuck = all(t.shares.total > least for t in tried[-PATIENCE:])
        if right or stuck or not found.complete or found.total <= EXACT or not predicted.any():
            break
        own = scaled(known, factors)
    if not tried or not tried[0].shares.complete:
        return known
    # Plans for a tolerance differ in size.
    of_size = isinstance(rule, Size)
    best = min(tried, key=lambda t: t.shares.total) if of_size else tried[-1]
    return scaled(known, best.factors * _unit(known, rule, best))


def scaled(known: Frontier, factors: Array) -> Frontier:
    """A frontier with errors of its sites, then of its kernels, multiplied."""
    errors = known.errors_by_width
    sites, kernels = np.split(factors, [len(known.problems.sites)])
    surfaces = {
        ridge: tuple(
            s._replace(errors=f * s.errors, total=f * s.total)
            for s, f in zip(own, sites, strict=True)
        )
        for ridge, own in errors.surfaces.items()
    }
    ranks = tuple(f * own for own, f in zip(errors.ranks, kernels, strict=True))
    return known._replace(errors_by_width=Errors(surfaces, ranks), curves={})


def _folds(known: Frontier) -> int:
    """How many folds the rows of its evidence were dealt to."""
    return max(len(p.moments.count) for problem in known.problems.problems for p in problem.points)


def _some(net: Net, rows: Batch) -> Batch:
    """Of some rows as many as the work allows."""
    passes = 3 * len(NODES) * ROUNDS
    allowed = WORK / max(passes * costs(net.network).forward, 1.0)
    most = int(np.clip(allowed, *ROWS))
    return jax.tree.map(lambda x: x[:most], rows)


def _predicted(curves: tuple[Curve, ...], plan: Plan) -> Array:
    """The predicted squared errors of a plan's sites, then of its kernels."""
    own = next(curve for curve in curves if curve.shrinkage == plan.shrinkage)
    return np.array(own.prices.errors(plan.state))


def _fitted(problems: Problems) -> Problems:
    """Sites and kernels with the moments of the first fold of rows alone, as predictions are."""

    def kernel(own: Kernel) -> Kernel:
        around = own.patches and own.patches._replace(moments=of_fold(own.patches.moments, 0))
        return own._replace(moments=of_fold(own.moments, 0), patches=around)

    return problems._replace(
        problems=tuple(in_fold(own, 0) for own in problems.problems),
        kernels=tuple(map(kernel, problems.kernels)),
    )


def _measured(
    net: Net, params: Any, known: Frontier, problems: Problems, plan: Plan, rows: Goals,
    memory: Memory,
) -> Shares:  # fmt: skip
    flat = net.network.flatten(params)
    choices = chosen(problems, plan, memory)
    own = in_place(known.stats.network, flat, problems, choices, plan.state.ranks)
    counts = len(problems.sites), len(problems.kernels)
    return shares(own, rows, counts, known.stats.metric)


def _next(factors: Array, seen: Array, last: Tried) -> tuple[Array, Array, bool]:
    """Factors by what was measured last, which parts are told, and whether prices were right.

    Parts that haven't been told yet are taken to be as those that are, or right where few are.
    """
    predicted, measured = last.predicted, np.concatenate([last.shares.sites, last.shares.kernels])
    told = predicted > TOLD * predicted.sum()
    safe = np.where(told, predicted, 1.0)
    ratios = np.maximum(measured, FAINT * predicted) / safe
    usual = float(np.exp(np.sum(np.log(ratios[told])) / (told.sum() + FIRST)))
    own = np.clip((ratios + FIRM * usual) / (1.0 + FIRM), usual / APART, usual * APART)
    before = seen & told
    found = np.where(seen, factors, usual)
    found[told] = own[told]
    found[before] = np.sqrt(own[before] * factors[before])
    change = found / factors
    return found, seen | told, bool(change.max() <= RIGHT * change.min())


def _unit(known: Frontier, rule: Size | Tolerance, best: Tried) -> float:
    """What makes the predicted error of a plan the measured one."""
    predicted = float(best.predicted @ best.factors)
    scale = known.of(rule)[0].scale
    return best.shares.error**2 * scale / predicted if predicted > 0 else 1.0
