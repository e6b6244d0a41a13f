"""What every size of a network costs, over all of its dimensions, priced once for all budgets."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from linjax.dims.sites import Site
from linjax.errors import LinjaxError
from linjax.evidence.bounds import fingerprint
from linjax.evidence.stats import Stats
from linjax.fold.engine.choose import Choice
from linjax.fold.engine.cost import State
from linjax.fold.engine.plan import Curve, Plan, within_budget, within_error
from linjax.fold.pricing import Problems, chosen, priced, problems_of
from linjax.fold.report import SiteChange
from linjax.fold.rewrite import Written, begun, finished, write
from linjax.fold.rules import Size, Tolerance, unmet
from linjax.graph import pytree, table
from linjax.graph.count import count

Array = np.ndarray

SHOWN = (0.75, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01)


class Landscape(NamedTuple):
    """Predicted output error at every size; prints as a table.

    Attributes:
      stats: the evidence that it was made of.
      problems: the sites with their moments.
      curves: what every size costs, by what is counted and by the multiple of widths.
      before: parameters of the network.
      fingerprint: digest of its parameters.
    """

    stats: Stats
    problems: Problems
    curves: dict[tuple[str, int], tuple[Curve, ...]]
    before: int
    fingerprint: str

    def of(self, rule: Size | Tolerance) -> tuple[Curve, ...]:
        """What every size costs by a rule's measure; worked out once."""
        measure = rule.of if isinstance(rule, Size) else "parameters"
        key = (measure, rule.round_to)
        if key not in self.curves:
            self.curves[key] = priced(self.stats, self.problems, *key)
        return self.curves[key]

    def plan(self, rule: Size | Tolerance) -> Plan:
        """Returns the widths that a rule asks for.

        Raises:
          LinjaxError: if the smallest network that there is costs more.
        """
        curves = self.of(rule)
        if isinstance(rule, Tolerance):
            return within_error(curves, rule.error)
        prices = curves[0].prices
        before = prices.cost(prices.start)
        plan = within_budget(curves, rule.fraction * before)
        if plan.cost + self._biases(rule.of, plan.state) > rule.fraction * before:
            plan = within_budget(curves, rule.fraction * before - self._biases(rule.of))
        if plan.cost + self._biases(rule.of, plan.state) > rule.fraction * before:
            raise unmet(rule, self.least(rule))
        return plan

    def least(self, rule: Size) -> float:
        """The share that the smallest network has, of what a rule counts."""
        curves = self.of(rule)
        steps = [own.smallest for own in curves]
        cost = min(step.cost + self._biases(rule.of, step.state) for step in steps)
        return min(cost / curves[0].prices.cost(curves[0].prices.start), 1.0)

    def enough(self, rule: Size, error: float) -> float:
        """The share, of what a rule counts, from which on the predicted error is at most this."""
        curves = self.of(rule)
        plan = within_error(curves, error)
        cost = plan.cost + self._biases(rule.of, plan.state)
        return min(cost / curves[0].prices.cost(curves[0].prices.start), 1.0)

    def _biases(self, of: str, state: State | None = None) -> float:
        """What a fold may put beside: biases where there were none, constants that moved."""
        network = self.stats.network
        folded = [
            site
            for n, (site, problem) in enumerate(
                zip(self.problems.sites, self.problems.problems, strict=True)
            )
            if state is None or state.linears[n] or state.units[n] < problem.width
        ]
        made = {
            reader.leaf: reader.op
            for site in folded
            for reader in site.readers
            if reader.leaf is not None and reader.op not in network.biases
        }
        if of == "flops":
            return 0.0
        total = 0.0
        for leaf in made:
            spans = network.layout.leaves[leaf]
            entries = np.prod([spans[n].size for n in network.bias_axes(leaf)])
            kernel = network.layout.program.avals[network.ref(leaf)]
            total += float(entries) * (kernel.dtype.itemsize if of == "bytes" else 1)
        for op, place in network.varying_along({site.dim for site in folded}):
            moved: Any = network.layout.makers[op].inputs[place]
            total += np.size(moved.value) * (4 if of == "bytes" else 1)
        return total

    def write(self, params: Any, plan: Plan) -> tuple[Written, list[Choice]]:
        """Returns the network folded to a plan in one shot, and what every site keeps."""
        network, choices = self.stats.network, chosen(self.problems, plan)
        now = begun(network, pytree.flatten(params))
        for site, choice in self.folded(choices):
            now = write(network, now, site, choice)
        return now, choices

    def folded(self, choices: list[Choice]) -> list[tuple[Site, Choice]]:
        """The sites that become something else, with what they keep."""
        every = zip(self.problems.sites, self.problems.problems, choices, strict=True)
        return [
            (site, own)
            for site, problem, own in every
            if own.kept.shape[-1] < problem.width or own.linear.shape[-1]
        ]

    def fold(self, params: Any, plan: Plan) -> tuple[Any, dict[str, SiteChange]]:
        """Returns the pytree folded to a plan in one shot, and what became of every site."""
        now, choices = self.write(params, plan)
        return finished(now.flat, params), self.told(choices)

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
            if share * self.before > least + self._biases("parameters"):
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


def landscape(params: Any, stats: Stats) -> Landscape:
    """Prices all sizes of a network at once."""
    return Landscape(stats, problems_of(stats), {}, count(params), fingerprint(params))
