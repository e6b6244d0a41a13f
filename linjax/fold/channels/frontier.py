"""What every size of a network with convolutions costs, priced once for all budgets."""

from typing import Any, NamedTuple

import numpy as np

from linjax.evidence.bounds import fingerprint
from linjax.evidence.stats import Stats
from linjax.fold.channels.compose import composed, told
from linjax.fold.channels.execute import choices, executed
from linjax.fold.channels.network import Network, landscape, read
from linjax.fold.channels.plan import (
    Landscape,
    State,
    Step,
    error,
    fitting,
    parameters,
    path,
    rounded_state,
)
from linjax.fold.channels.sequential import refit_in_order
from linjax.fold.channels.surface import Choice
from linjax.fold.report import SiteChange
from linjax.fold.rows import Batch
from linjax.fold.rules import Size, Tolerance
from linjax.graph import pytree, table
from linjax.graph.count import count
from linjax.graph.net import Net

Array = np.ndarray

SHOWN = (0.75, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01)


class ChannelPlan(NamedTuple):
    """Widths of everything, and what was expected of them.

    Attributes:
      state: the widths.
      parameters: parameters of the whole network.
      error: predicted relative output error, root mean square.
    """

    state: State
    parameters: int
    error: float


class ChannelFrontier(NamedTuple):
    """Predicted output error at every size; prints as a table.

    Attributes:
      stats: the evidence that it was made of.
      network: the parameters and the evidence, read.
      land: what all widths cost.
      steps: ever smaller networks, each the one before after its cheapest move.
      scale: the outputs' variance in the metric of the errors.
      before: parameters of the network.
      fingerprint: digest of its parameters.
    """

    stats: Stats
    network: Network
    land: Landscape
    steps: tuple[Step, ...]
    scale: float
    before: int
    fingerprint: str

    def plan(self, rule: Size | Tolerance) -> ChannelPlan:
        """Returns the widths that a rule asks for."""
        if isinstance(rule, Size):
            most = int(rule.fraction * self.before)
            state = self._within(most)
        else:
            state = self.steps[0].state
            for step in self.steps[1:]:
                if step.error > rule.error**2 * self.scale:
                    break
                state = step.state
        state = rounded_state(self.land, state, rule.round_to)
        squared = error(self.land, state)
        return ChannelPlan(
            state, parameters(self.land, state), float(np.sqrt(squared / self.scale))
        )

    def _within(self, most: int) -> State:
        """The first step within a budget, or a smaller one from the step before it."""
        at = next((i for i, step in enumerate(self.steps) if step.parameters <= most), None)
        if at is None:
            return self.steps[-1].state
        if not at:
            return self.steps[0].state
        other = fitting(self.land, self.steps[at - 1].state, most)
        both = [self.steps[at].state] + ([] if other is None else [other])
        return min(both, key=lambda state: error(self.land, state))

    def fold(self, params: Any, plan: ChannelPlan) -> tuple[Any, dict[str, SiteChange]]:
        """Returns the pytree folded to a plan in one shot, and what became of every site."""
        flat, changes = self._executed(plan)[1:]
        graph = self.network.graph
        flat = composed(graph, flat)
        return pytree.unflatten(flat, like=params), told(graph, flat, changes)

    def fold_in_order(self, net: Net, plan: ChannelPlan, rows: Batch, metric: str) -> list[Any]:
        """Returns the network folded in one shot, and the same refitted layer by layer.

        Args:
          net: the traced network.
          plan: the widths.
          rows: calibration rows to refit on.
          metric: output metric.
        """
        made, flat, changes = self._executed(plan)
        refitted = refit_in_order(net, self.network, flat, made, changes, rows, metric)
        return [composed(self.network.graph, each) for each in (flat, refitted)]

    def _executed(
        self, plan: ChannelPlan
    ) -> tuple[list[Choice], pytree.Flat, dict[str, SiteChange]]:
        """What every site keeps, the folded parameters, and what became of every site."""
        made = choices(self.network, plan.state)
        return made, *executed(self.network, self.land, plan.state, made)

    def errors(self, sizes: Any) -> Array:
        """Returns the predicted relative output error at shares of the parameters."""
        return np.array([self.plan(Size(float(share))).error for share in np.ravel(sizes)])

    def __repr__(self) -> str:
        plans = [self.plan(Size(share)) for share in SHOWN]
        rows = [
            (f"{share:.1%}", f"{plan.parameters:,}", f"{plan.error:.3g}")
            for share, plan in zip(SHOWN, plans, strict=True)
        ]
        text = table.grid(("size", "parameters", "predicted relative output error"), rows)
        return f"{text}\n{self.before:,} parameters before"


def channel_frontier(params: Any, stats: Stats) -> ChannelFrontier:
    """Prices all sizes of a network with convolutions at once."""
    network = read(params, stats)
    land = landscape(network)
    return ChannelFrontier(
        stats,
        network,
        land,
        tuple(path(land)),
        _scale(stats, land),
        count(params),
        fingerprint(params),
    )


def _scale(stats: Stats, land: Landscape) -> float:
    """The outputs' variation in the output metric, that relative errors are relative to."""
    chained = max((chain.prices.output for chain in land.chains), default=0.0)
    return max(float(stats.variation) or chained, np.finfo(np.float64).tiny)
