"""Folding a parameter pytree: its chains, its budget, its plan."""

from typing import Any, NamedTuple

from linjax.errors import EvidenceError
from linjax.evidence.stats import Stats
from linjax.fold.least_squares.one_shot import Folded, Plan, fold_moments, make_plan
from linjax.fold.least_squares.prices import Problem
from linjax.fold.rules import Size, Tolerance
from linjax.graph import pytree
from linjax.graph.chains import read_chain, write_chain
from linjax.graph.count import count
from linjax.graph.layers import Layers


class Task(NamedTuple):
    """What a rule asks of a network.

    Attributes:
      problems: its chains.
      options: arguments of :func:`fold_moments`: budget or error, fixed, round_to.
    """

    problems: tuple[Problem, ...]
    options: dict[str, Any]

    def plan(self) -> Plan:
        """Returns the widths to fold to."""
        return make_plan(self.problems, **self.options)

    def fold(self, plan: Plan | None = None) -> Folded:
        """Returns the chains folded in one shot."""
        return fold_moments(self.problems, plan=plan, **self.options)


def task(params: Any, stats: Stats, rule: Size | Tolerance) -> Task:
    """Reads the chains of a pytree and works out what may be stored.

    Raises:
      EvidenceError: if the evidence holds no second moments.
    """
    if stats.moments is None:
        raise EvidenceError(f"{rule} needs second moments; collect with second_moments=True")
    graph, flat = stats.graph, pytree.flatten(params)
    problems = tuple(
        Problem(read_chain(graph, flat, chain), moments, len(chain.layers[-1]) == 1)
        for chain, moments in zip(graph.chains, stats.moments, strict=True)
    )
    own = pytree.foldable_paths(graph)
    fixed = count([leaf for path, leaf in flat.items() if path not in own])
    options: dict[str, Any] = {"fixed": fixed, "round_to": rule.round_to}
    if isinstance(rule, Size):
        options["budget"] = int(rule.fraction * count(params))
    else:
        options["error"] = rule.error
    return Task(problems, options)


def written(params: Any, stats: Stats, chains: tuple[Layers, ...]) -> Any:
    """Returns the pytree with its chains replaced."""
    flat = pytree.flatten(params)
    for chain, layers in zip(stats.graph.chains, chains, strict=True):
        flat = write_chain(stats.graph, flat, chain, layers)
    return pytree.unflatten(flat, like=params)
