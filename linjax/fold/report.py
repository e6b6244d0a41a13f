"""What a fold did: units kept, linear units, parameters, predicted error."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from linjax.chains.layers import Array, Layer
from linjax.chains.structure import Graph
from linjax.dims.network import Network
from linjax.report import table


class SiteChange(NamedTuple):
    """What became of one site.

    Attributes:
      before: number of units that had an activation.
      kept: ``(k,)`` indices of those that still have it, ascending; ``(n, k)`` where there are
        n repeats, each with its own.
      linears: number of linear units beside them.
      residual: whether the layer's features travel on, as residual path.
      mixed: whether coordinates became combinations of those that were, so that none is kept.
    """

    before: int
    kept: Array
    linears: int
    residual: bool
    mixed: bool = False

    @property
    def carry(self) -> bool:
        """Deprecated: ``residual``."""
        warnings.warn("SiteChange.carry is now .residual", DeprecationWarning, stacklevel=2)
        return self.residual


class Report(NamedTuple):
    """What a fold did; prints as a table.

    Attributes:
      graph: the network.
      sites: changes by site.
      before: number of parameters before.
      after: number of parameters after.
      predicted: predicted relative output error, None where the rule predicts none.
      rule: the rule that was followed, as text.
      evidence: what it went by, as text.
      network: its dimensions, where the sites aren't units of dense chains.
    """

    graph: Graph
    sites: dict[str, SiteChange]
    before: int
    after: int
    predicted: float | None = None
    rule: str = ""
    evidence: str = ""
    network: Network | None = None

    def __repr__(self) -> str:
        rows = [
            (name, s.before, np.shape(s.kept)[-1], s.linears, "yes" if s.residual else "")
            for name, s in self.sites.items()
        ]
        text = table.grid(("site", "units", "kept", "linear", "residual"), rows)
        share = self.after / max(self.before, 1)
        total = f"{self.before:,} → {self.after:,} parameters ({share:.2%})"
        if self.predicted is not None:
            total += f", predicted relative output error {self.predicted:.3g}"
        return f"{text}\n{total}"


def change(before: Layer, after: Layer) -> SiteChange:
    """Compares a layer before and after a fold, from the origins of its units."""
    kept: Any = after.origin
    return SiteChange(before.units, kept, after.linears, after.residual)
