"""The frontier of a network: what every size costs, priced once for all budgets."""

import glob
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from linjax.chains.reading import simplest
from linjax.dims.sites import Site
from linjax.dims.spelled import spelled
from linjax.errors import EvidenceError, LinjaxError, StructureError
from linjax.evidence.bounds import fingerprint
from linjax.evidence.given import as_evidence
from linjax.evidence.stats import Stats
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.cost import State
from linjax.fold.engine.path import Prices
from linjax.fold.engine.plan import Curve, Plan, topped_up, within_budget, within_error
from linjax.fold.plans.factored import factored, refilled
from linjax.fold.plans.pricing import Errors, Problems, chosen, errors_of, priced, problems_of
from linjax.fold.report import SiteChange
from linjax.fold.rewrite import write
from linjax.fold.rules import Least, Size, Tolerance, planned, unmet
from linjax.fold.threads import one_thread
from linjax.fold.written import Written, begun, finished_past
from linjax.program import pytree
from linjax.program.count import count
from linjax.program.pytree import is_floating, join
from linjax.report import table

Array = np.ndarray

TRIES = 8
"""Plans that are made until one fits with what it puts beside."""
SHOWN = (0.75, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01)


class Frontier(NamedTuple):
    """Predicted output error at every size; prints as a table.

    Attributes:
      stats: the evidence that it was made of.
      problems: the sites with their moments.
      errors_by_width: what their widths cost in error.
      curves: what every size costs, by what is counted, the multiple of widths, and what stays.
      before: parameters of the network.
      fingerprint: digest of its parameters.
    """

    stats: Stats
    problems: Problems
    errors_by_width: Errors
    curves: dict[tuple[str, int, Least], tuple[Curve, ...]]
    before: int
    fingerprint: str

    def of(self, rule: Size | Tolerance) -> tuple[Curve, ...]:
        """What every size costs by a rule's measure; worked out once."""
        planned(rule)
        measure = rule.of if isinstance(rule, Size) else "parameters"
        key = (measure, rule.round_to, rule.least)
        if key not in self.curves:
            self.curves[key] = priced(self.stats, self.problems, self.errors_by_width, *key)
        return self.curves[key]

    def prices(self, rule: Size | Tolerance) -> Prices:
        """What widths cost by a rule's measure."""
        return self.of(rule)[0].prices

    def whole(self, rule: Size | Tolerance) -> float:
        """What the network is by a rule's measure."""
        prices = self.prices(rule)
        counted = isinstance(rule, Tolerance) or rule.of == "parameters"
        return float(self.before) if counted else prices.cost(prices.start)

    def plan(self, rule: Size | Tolerance) -> Plan:
        """Returns the widths that a rule asks for.

        A stream that norms run over costs all that makes or reads it, so that steps by turns lead
        past what is best: where one is narrowed, the plan is compared with that which leaves it.

        Raises:
          LinjaxError: if the smallest network that there is costs more.
        """
        plans = self.leaving(rule, lambda site: site.norms is not None, self._planned)
        if isinstance(rule, Tolerance):
            return min(plans, key=lambda p: p.cost)
        return min(plans, key=lambda p: p.error)

    def leaving(
        self, rule: Any, which: Callable[[Site], bool], make: Callable[[Any], Plan]
    ) -> list[Plan]:
        """The plan for a rule and, where it narrows sites of some kind, that which leaves them.

        Args:
          rule: :func:`size` or :func:`tolerance`.
          which: whether a site is of the kind.
          make: makes the plan for a rule.
        """
        plan, own = make(rule), self.problems
        widths = zip(own.sites, own.problems, plan.state.units, strict=True)
        narrow = [p.name for site, p, units in widths if units < p.width and which(site)]
        if not narrow:
            return [plan]
        least = (*rule.least, *((glob.escape(name), 1.0) for name in narrow))
        try:
            return [plan, make(rule._replace(least=least))]
        except LinjaxError:  # nothing so small without them
            return [plan]

    def _planned(self, rule: Size | Tolerance) -> Plan:
        """The widths that one path leads to."""
        curves = self.of(rule)
        if isinstance(rule, Tolerance):
            plan = within_error(curves, rule.error)
            return plan if plan.cost <= self.before else self.as_it_is(rule)
        if rule.fraction >= 1.0:
            return self.as_it_is(rule)
        allowed = rule.fraction * self.whole(rule)
        budget = allowed
        for _ in range(TRIES):  # what a plan puts beside isn't known before it is made
            plan = within_budget(curves, budget)
            over = plan.cost + self.biases(rule.of, plan.state) - allowed
            if over <= 0:
                wider = topped_up(curves, plan, plan.cost - over)
                over = wider.cost + self.biases(rule.of, wider.state) - allowed
                return wider if over <= 0 else plan
            budget = min(budget, plan.cost) - over  # below what it cost: widths come in steps
        plan = within_budget(curves, allowed - self.biases(rule.of))
        if plan.cost + self.biases(rule.of, plan.state) > allowed:
            raise unmet(rule, self.least(rule))
        return plan

    def as_it_is(self, rule: Size | Tolerance) -> Plan:
        """The plan that leaves everything alone."""
        curve = self.of(rule)[0]
        return curve.plan(curve.prices.start)

    def least(self, rule: Size) -> float:
        """The share that the smallest network has, of what a rule counts."""
        curves = self.of(rule)
        steps = [own.smallest for own in curves]
        cost = min(step.cost + self.biases(rule.of, step.state) for step in steps)
        return min(cost / self.whole(rule), 1.0)

    def reachable(self, rule: Size) -> Size:
        """Returns a rule, with the smallest size that there is in place of one below that.

        >>> import jax, jax.numpy as jnp, linjax
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"] + 9) @ p["out"]
        >>> params = {"in": jnp.ones((2, 50)), "out": jnp.ones((50, 3))}
        >>> x = jnp.array([[1.0, -1.0], [3.0, -2.0], [1.0, 2.0]])
        >>> net = linjax.trace(apply, params, x)
        >>> known = linjax.frontier(params, linjax.collect(net, params, [x]))
        >>> known.reachable(linjax.size(0.5))
        size(0.5)
        >>> least = known.reachable(linjax.size(0.001))
        >>> least.fraction > 0.001, linjax.count(linjax.fold(params, known, least)) <= 25
        (True, True)
        """
        return rule._replace(fraction=max(rule.fraction, self.least(rule)))

    def enough(self, rule: Size, error: float) -> float:
        """The share, of what a rule counts, from which on the predicted error is at most this."""
        curves = self.of(rule)
        plan = within_error(curves, error)
        cost = plan.cost + self.biases(rule.of, plan.state)
        return min(cost / self.whole(rule), 1.0)

    def biases(self, of: str, state: State | None = None) -> float:
        """What a fold may put beside: biases where there were none."""
        network = self.stats.network
        folded = [
            site
            for n, (site, problem) in enumerate(
                zip(self.problems.sites, self.problems.problems, strict=True)
            )
            if state is None or state.linears[n] or state.units[n] < problem.width
        ]
        made = {
            kernel.leaf: kernel.read.op
            for n, kernel in enumerate(self.problems.kernels)
            if (state is None or state.ranks[n]) and kernel.read.op not in network.biases
        }
        made |= {
            reader.leaf: reader.op
            for site in folded
            for reader in site.readers
            if reader.leaf is not None and reader.op not in network.biases
        }
        leaves = {*made, *self.problems.before.biased}
        if of == "flops":
            return 0.0
        total = 0.0
        for n, site in enumerate(self.problems.sites):
            width = self.problems.problems[n].width if state is None else state.linears[n]
            for leaf in () if site.steady else {maker.leaf for maker in site.makers} - {None}:
                total += width * self._entries(leaf, {site.dim}, of)
        for leaf in leaves:
            total += self._entries(leaf, set(), of)
        return total

    def _entries(self, leaf: int, apart: set[int], of: str) -> float:
        """What a bias behind a kernel costs, along axes without some dimensions."""
        network = self.stats.network
        spans = (network.layout.leaves[leaf][n] for n in network.bias_axes(leaf))
        entries = math.prod(span.size for span in spans if not apart & set(span.dims()))
        kernel = network.layout.program.avals[network.ref(leaf)]
        return float(entries * (kernel.dtype.itemsize if of == "bytes" else 1))

    def write(self, params: Any, plan: Plan) -> tuple[Written, list[Choice]]:
        """Returns the network folded to a plan in one shot, and what every site keeps."""
        network, own = self.stats.network, self.problems
        flat = network.flatten(params)
        choices = chosen(own, plan)
        by_site = [c.by_site(p) for c, p in zip(choices, own.points, strict=True)]
        folded = own.folded(by_site)
        if not folded and not any(plan.state.ranks):
            return begun(network, flat), by_site
        now = begun(network, spelled(network, flat))
        for kernel, rank in zip(own.kernels, plan.state.ranks, strict=True):
            if rank:
                now = factored(network, now, kernel, rank, own.problems, choices, own.points)
            else:
                now = refilled(network, now, kernel, own.problems, choices, own.points)
        for n in folded:
            now = write(network, now, own.sites[n], by_site[n])
        return now, by_site

    def finished(self, flat: pytree.Flat, params: Any) -> Any:
        """Returns leaves of a fold as a pytree on the device."""
        return finished_past(self.stats.network, flat, params, self.problems.before.vanished)

    @one_thread()
    def fold(self, params: Any, plan: Plan) -> tuple[Any, dict[str, SiteChange]]:
        """Returns the pytree folded to a plan in one shot, and what became of every site.

        Raises:
          StructureError: if the frontier is of other parameters.
          LinjaxError: if the plan is none, or one of another network.
        """
        known_or_made(params, self)
        widths = (len(self.problems.sites), len(self.problems.kernels))
        if not isinstance(plan, Plan) or widths != (len(plan.state.units), len(plan.state.ranks)):
            raise LinjaxError(f"plan: {plan!r}, expected one of this frontier, frontier.plan(rule)")
        return self.carried_out(params, plan)

    def carried_out(self, params: Any, plan: Plan) -> tuple[Any, dict[str, SiteChange]]:
        """The same, of parameters that are known to be its own."""
        now, choices = self.write(params, plan)
        small = simplest(self.stats.graph, pytree.flatten(self.finished(now.flat, params)))
        return pytree.unflatten(small, like=params), self.told(choices)

    def told(self, choices: list[Choice]) -> dict[str, SiteChange]:
        """What became of every site."""
        return {
            site.name: SiteChange(
                problem.width,
                own.kept[0] if len(own.kept) == 1 else own.kept,
                own.linear.shape[-1],
                False,
                own.basis is not None and own.kept.shape[-1] < problem.width,
            )
            for site, problem, own in zip(
                self.problems.sites, self.problems.problems, choices, strict=True
            )
        }

    def errors(self, sizes: Any) -> Array:
        """Returns the predicted relative output error at shares of the parameters.

        Infinite below the smallest network that there is.
        """
        return np.array([error_at(self.plan, float(share)) for share in np.ravel(sizes)])

    def __repr__(self) -> str:
        rows = []
        least = min(own.smallest.cost for own in self.of(Size(1.0)))
        for share in SHOWN:
            if share * self.before > least + self.biases("parameters"):
                plan = self.plan(Size(share))
                rows.append((f"{share:.1%}", f"{plan.cost:,.0f}", f"{plan.error:.3g}"))
        text = table.grid(("size", "parameters", "predicted relative output error"), rows)
        return f"{text}\n{self.before:,} parameters before"


def error_at(plan: Callable[[Size], Any], share: float) -> float:
    """The predicted error at a share of the parameters, infinite where there is no such network."""
    try:
        return float(plan(Size(share)).error)
    except LinjaxError:
        return math.inf


@one_thread()
def frontier(params: Any, stats: Stats, *, mesh: Mesh | None = None) -> Frontier:
    """Prices all sizes of a network at once.

    Errors of parts are measured on rows of the calibration set that nothing was fitted to, in
    the output metric, and add up. From there a greedy path of ever smaller networks, each
    the one before after the move that costs least error per parameter saved, serves every
    size and every tolerance: ``fold(params, frontier(params, stats), rule)`` is
    ``fold(params, stats, rule)`` without planning anew.

    Args:
      params: the pytree that the evidence was collected on.
      stats: evidence of :func:`collect`, with second moments.
      mesh: devices of several processes, which then share the sites; each of them has to call
        this, and gets the same.

    Returns:
      The frontier, evidence for :func:`fold` and :func:`compress`.

    Raises:
      StructureError: if params isn't the network of the evidence, naming the path.
      EvidenceError: if the evidence holds no second moments.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"] + 9) @ p["out"]
      >>> params = {"in": jnp.ones((2, 50)), "out": jnp.ones((50, 3))}
      >>> x = jnp.array([[1.0, -1.0], [3.0, -2.0], [1.0, 2.0]])
      >>> net = linjax.trace(apply, params, x)
      >>> known = linjax.frontier(params, linjax.collect(net, params, [x]))
      >>> bool(known.errors([0.5, 0.1]).max() < 1e-3)
      True
      >>> linjax.count(linjax.fold(params, known, linjax.size(0.1))) <= 25
      True
    """
    as_evidence(params, stats)
    if not stats.points:
        raise EvidenceError("sizes need second moments; collect with second_moments=True")
    flat = stats.network.flatten(params)
    for path, leaf in flat.items():
        if is_floating(str(jnp.result_type(leaf))) and not np.isfinite(np.asarray(leaf)).all():
            raise StructureError(f"{join(path)}: values aren't finite")
    problems = problems_of(flat, stats)
    errors = errors_of(stats, problems, mesh)
    return Frontier(stats, problems, errors, {}, count(params), fingerprint(params))


def known_or_made(params: Any, evidence: Stats | Frontier) -> Frontier:
    """Returns the frontier of these parameters, made if evidence isn't one.

    Raises:
      StructureError: if the frontier is of other parameters.
    """
    as_evidence(params, evidence)
    if not isinstance(evidence, Frontier):
        return frontier(params, evidence)
    if fingerprint(params) != evidence.fingerprint:
        raise StructureError(
            "the frontier was made for other values of these parameters; make one for these"
        )
    return evidence
