"""How much of a network a method may keep: its one number that a size settles."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from linjax.dims.network import Network
from linjax.dims.sites import Form, Product, Site
from linjax.dims.span import Cut, exposed
from linjax.errors import LinjaxError
from linjax.fold.costs import terms_of
from linjax.fold.engine.cost import State, total
from linjax.fold.rules import Size
from linjax.graph import pytree

Array = np.ndarray


class Budget(NamedTuple):
    """What a network may cost, and what it costs at other widths.

    Attributes:
      allowed: the most that it may cost.
      cost: of the widths of all foldable sites.
    """

    allowed: float
    cost: Callable[[Any], float]


def budget_of(network: Network, rule: Size) -> Budget:
    """Returns the budget that a size leaves to a network."""
    index = {site.dim: n for n, site in enumerate(network.foldable)}
    terms, none = terms_of(network, index, {}, rule.of), (0,) * len(index)

    def cost(widths: Any) -> float:
        return total(terms, State(tuple(map(int, widths)), none, ()))

    return Budget(rule.fraction * cost(widths_of(network)), cost)


def widths_of(network: Network) -> Array:
    """Widths of the foldable sites."""
    return np.array([site.width for site in network.foldable], int)


def inner(network: Network) -> Array:
    """Which foldable sites others prune: what one value makes, for its own readers.

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
        found.append(len(sources) == 1 and not shared)
    return np.array(found, bool)


def largest(rule: Size, budget: Budget, cost: Callable[[float], float]) -> float:
    """Returns the largest share in [0, 1] whose cost is within a budget.

    Args:
      rule: the size, for the message.
      budget: what it allows.
      cost: of a share; it grows with it.

    Raises:
      LinjaxError: if none is.
    """
    low, high = 0.0, 1.0
    if cost(low) > budget.allowed:
        raise LinjaxError(f"{rule}: the least that this method keeps is already more")
    if cost(high) <= budget.allowed:
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= budget.allowed else (low, middle)
    return low


def rows_of(
    network: Network, flat: pytree.Flat, site: Site, products: tuple[Product, ...]
) -> Array:
    """What kernels have for each coordinate of a site: ``(n, entries, m)``."""
    cut = Cut(site.dim, site.beside, network.layout.traced.__getitem__, lambda x: x)
    found = []
    for leaf in sorted({p.leaf for p in products if p.leaf is not None}):
        value = np.asarray(flat[network.paths[leaf]], np.float64)
        rows = np.asarray(exposed(value, network.layout.leaves[leaf], cut))
        found.append(rows.reshape(-1, *rows.shape[-2:]))
    return np.concatenate(found, axis=1)
