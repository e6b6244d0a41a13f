"""The frontier of a network: what every size costs, priced once for all budgets."""

from typing import Any, NamedTuple

import numpy as np

from linjax.errors import EvidenceError, LinjaxError, StructureError
from linjax.evidence.bounds import fingerprint
from linjax.evidence.stats import Stats
from linjax.fold.landscape import Landscape, error_at, landscape
from linjax.fold.least_squares.branches import joined
from linjax.fold.least_squares.budget import Link
from linjax.fold.least_squares.one_shot import fold_moments
from linjax.fold.least_squares.plan import Curve, Plan, curves, within_budget, within_error
from linjax.fold.least_squares.prices import Problem
from linjax.fold.rules import Size, Tolerance, unmet
from linjax.fold.threads import one_thread
from linjax.graph import pytree, table
from linjax.graph.chains import read_chain, write_chain
from linjax.graph.count import count
from linjax.graph.flow import entry, settled
from linjax.graph.layers import Layers
from linjax.graph.parts import parts_of, units_of
from linjax.graph.structure import Chain, Graph

Array = np.ndarray

SHOWN = (0.75, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005)


class Frontier(NamedTuple):
    """Predicted output error at every size; prints as a table.

    Attributes:
      stats: the evidence that it was made of.
      problems: the network's chains with their moments.
      curves: what every size costs, by shrinkage.
      before: parameters of the network.
      fingerprint: digest of its parameters.
    """

    stats: Stats
    problems: tuple[Problem, ...]
    curves: tuple[Curve, ...]
    before: int
    fingerprint: str

    def plan(self, rule: Size | Tolerance) -> Plan:
        """Returns the widths that a rule asks for.

        Raises:
          LinjaxError: if the smallest network that there is is larger, or operations or bytes
            are asked for.
        """
        if isinstance(rule, Size):
            if rule.of != "parameters":
                raise LinjaxError(
                    f"{rule}: chains of dense layers are planned by parameters; their operations "
                    "are nearly proportional to these"
                )
            plan = within_budget(self.curves, budget(rule, self.before), rule.round_to)
            if plan.parameters > budget(rule, self.before):
                raise unmet(rule, self.least(rule))
            return plan
        return within_error(self.curves, rule.error, rule.round_to)

    def least(self, rule: Size) -> float:
        """The share of the parameters that the smallest network has."""
        plans = [own.plan(own.steps[-1], rule.round_to) for own in self.curves]
        return self._share(min(plan.parameters for plan in plans))

    def enough(self, rule: Size, error: float) -> float:
        """The share of the parameters from which on the predicted error is at most this."""
        return self._share(within_error(self.curves, error, rule.round_to).parameters)

    def _share(self, parameters: int) -> float:
        """A share of the parameters that isn't rounded to one fewer."""
        return min((parameters + 0.5) / max(self.before, 1), 1.0)

    def fold(self, plan: Plan) -> tuple[Layers, ...]:
        """Returns the chains folded to a plan in one shot."""
        return joined(self.problems, plan, fold_moments(self.problems, plan))

    def errors(self, sizes: Any) -> Array:
        """Returns the predicted relative output error at shares of the parameters.

        Infinite below the smallest network that there is.
        """
        return np.array([error_at(self.plan, float(share)) for share in np.ravel(sizes)])

    def __repr__(self) -> str:
        least = self.least(Size(1.0))
        plans = [self.plan(Size(share)) for share in SHOWN if share >= least]
        rows = [
            (f"{share:.1%}", f"{plan.parameters:,}", f"{plan.error:.3g}")
            for share, plan in zip(SHOWN, plans, strict=False)
        ]
        text = table.grid(("size", "parameters", "predicted relative output error"), rows)
        return f"{text}\n{self.before:,} parameters before"


@one_thread()
def frontier(params: Any, stats: Stats) -> Frontier | Landscape:
    """Prices all sizes of a network at once.

    Errors of parts are measured on rows of the calibration set that nothing was fitted to, in
    the output metric, and add up. From there a greedy path of ever smaller networks, each
    the one before after the move that costs least error per parameter saved, serves every
    size and every tolerance: ``fold(params, frontier(params, stats), rule)`` is
    ``fold(params, stats, rule)`` without planning anew.

    Args:
      params: the pytree that the evidence was collected on.
      stats: evidence of :func:`collect`, with second moments.

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
    if stats.moments is None:
        raise EvidenceError("sizes need second moments; collect with second_moments=True")
    if stats.network is not None:
        return landscape(params, stats)
    pytree.check_leaves(stats.graph, pytree.flatten(params))
    problems = chain_problems(params, stats)
    own = pytree.foldable_paths(stats.graph)
    fixed = count([x for path, x in pytree.flatten(params).items() if path not in own])
    return Frontier(stats, problems, curves(problems, fixed), count(params), fingerprint(params))


def known_or_made(params: Any, evidence: Stats | Frontier | Landscape) -> Frontier | Landscape:
    """Returns the frontier of these parameters, made if evidence isn't one.

    Raises:
      StructureError: if the frontier is of other parameters.
    """
    if not isinstance(evidence, Frontier | Landscape):
        return frontier(params, evidence)
    if fingerprint(params) != evidence.fingerprint:
        raise StructureError(
            "the frontier was made for other values of these parameters; make one for these"
        )
    return evidence


def reachable(known: Frontier | Landscape, rule: Size) -> Size:
    """Returns a rule, with the smallest size that there is in place of one below that."""
    return rule._replace(fraction=max(rule.fraction, known.least(rule)))


def chain_problems(params: Any, stats: Stats) -> tuple[Problem, ...]:
    """Returns the network's chains, each with its moments."""
    graph, flat = stats.graph, pytree.flatten(params)
    return tuple(
        Problem(
            read_chain(graph, flat, chain),
            moments,
            graph.single(chain),
            link_of(graph, flat, chain),
        )
        for chain, moments in zip(graph.chains, stats.moments, strict=True)
    )


def link_of(graph: Graph, flat: pytree.Flat, chain: Chain) -> Link:
    """Returns how a chain hangs together with others."""
    trunks = graph.trunks(chain)
    open_ended = graph.open_ended(chain)
    return Link(
        trunks=tuple(-1 if t is None else graph.chains.index(t) for t in trunks),
        widths=tuple(map(sum, entry(graph, chain, flat))),
        elsewhere=sum(
            units_of(parts_of(graph.affine(name), flat))
            for name in chain.layers[-1]
            if name in open_ended
        ),
        settled=settled(graph, chain, flat),
    )


def budget(rule: Size, before: int) -> int:
    """Returns the largest number of parameters that a rule allows."""
    return int(rule.fraction * before)


def written(params: Any, stats: Stats, chains: tuple[Layers, ...]) -> Any:
    """Returns the pytree with its chains replaced."""
    flat = pytree.flatten(params)
    for chain, layers in zip(stats.graph.chains, chains, strict=True):
        if not settled(stats.graph, chain, flat):
            flat = write_chain(stats.graph, flat, chain, layers)
    return pytree.unflatten(flat, like=params)
