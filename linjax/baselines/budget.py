"""How much of a network a method may keep: the one number that a size settles."""

from collections.abc import Callable, Sequence
from typing import Any

from linjax.dims.leaves import RESIDUAL
from linjax.dims.network import Network
from linjax.dims.sites import Form
from linjax.errors import LinjaxError, StructureError
from linjax.evidence.stats import Stats
from linjax.fold.frontier import Frontier, known_or_made
from linjax.fold.plans.pricing import Problems
from linjax.fold.rules import Size
from linjax.program.pytree import join

Evidence = Stats | Frontier


def largest(cost: Callable[[float], float], allowed: float, rule: Size) -> float:
    """Returns the largest share in [0, 1] whose network is within the budget.

    Args:
      cost: of a share; it grows with it.
      allowed: the budget.
      rule: the size, for the message.

    Raises:
      LinjaxError: if even the smallest isn't.
    """
    low, high = 0.0, 1.0
    if cost(low) > allowed:
        raise LinjaxError(f"{rule}: the least that this method keeps is already more")
    if cost(high) <= allowed:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= allowed else (low, middle)
    return low


def same_share(own: Problems, narrow: Sequence[bool], share: float) -> tuple[int, ...]:
    """Widths where some sites keep a share of their coordinates and the others all."""
    pairs = zip(own.problems, narrow, strict=True)
    return tuple(max(1, round(share * p.width)) if some else p.width for p, some in pairs)


def inner(network: Network) -> list[bool]:
    """Which foldable sites others narrow: what one value makes, for its own readers.

    Not the width of a residual stream, which many products write, nor heads among those that
    share keys: their queries meet these by pairs of features, a site of their own.
    """
    makers, paired = network.layout.makers, set[int]()
    for site in network.foldable:
        paired |= {m.op for m in site.makers if site.form is Form.PAIRED}
    found = []
    for site in network.foldable:
        sources = {getattr(makers[m.op].inputs[m.data], "id", -1) for m in site.makers}
        shared = site.form is not Form.PAIRED and paired & {m.op for m in site.makers}
        found.append(len(sources) == 1 and not shared and site.norms is None)
    return found


def unfolded(params: Any, evidence: Stats | Frontier) -> Frontier:
    """Returns the frontier of parameters that nothing has been folded out of into linear ones.

    Raises:
      StructureError: if a fold has put linear coordinates, a residual path or a first factor
        beside a kernel: the methods that others use know nothing of these.
    """
    known = known_or_made(params, evidence)
    network = known.stats.network
    flat = network.flatten(params)
    for leaf in range(len(network.paths)):
        for kind in ("linear", RESIDUAL, "down"):
            if network.extra(leaf, kind) in flat:
                raise StructureError(
                    f"{join(network.extra(leaf, kind))}: a fold has put this beside a kernel, of "
                    "which baselines know nothing; start from the original parameters"
                )
    return known
