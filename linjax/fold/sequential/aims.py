"""What a product should make where its result is added to something that already errs."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.replay import Replay, behind, wiring
from linjax.dims.values import Source
from linjax.program.flat import Op, Ref

Array = Any

ADDING = ("add", "add_any")
AFFINE = (*ADDING, "sub", "mul", "div", "convert_element_type", "neg")
FAINT = 1e-3
"""Share of the largest slope below which an error behind it isn't worth correcting."""


class Sum(NamedTuple):
    """Where a product's result is added to data.

    Attributes:
      way: operations up to there with the places of what comes from the result: affine, each
        entry for itself.
      op: the sum.
      place: that of the other summand.
    """

    way: tuple[tuple[Op, int], ...]
    op: Op
    place: int


def met(network: Network, product: int) -> Sum | None:
    """Finds the sum that a product's result meets; None where that's ahead of it."""
    links, layout = wiring(network), network.layout
    if product in links.inner:
        return None
    value, way = product, list[tuple[Op, int]]()
    while len(links.users.get(value, ())) == 1:
        op = layout.program.ops[links.users[value][0]]
        at = [k for k, o in enumerate(op.inputs) if isinstance(o, Ref) and o.id == value]
        shapes = {layout.program.avals[v].shape for v in (value, number(op))}
        if len(at) != 1 or op.name not in AFFINE or len(shapes) > 1:
            return None
        others = [k for k in range(len(op.inputs)) if k != at[0]]
        data = [k for k in others if layout.operand(op, k).source is Source.DATA]
        if data:
            there = op.name in ADDING and _there(network, product, op.inputs[data[0]])
            return Sum(tuple(way), op, data[0]) if there else None
        if op.name == "div" and at[0]:
            return None
        way.append((op, at[0]))
        value = number(op)
    return None


def _there(network: Network, product: int, summand: Any) -> bool:
    """Whether a summand can be told before a product, no later product being behind it."""
    links, ops = wiring(network), network.layout.program.ops
    if summand.id in behind(network, [product]):
        return False
    seen, waiting = set[int](), [summand.id]
    while waiting:
        place = links.at.get(waiting.pop())
        if place is None or place in seen:
            continue
        seen.add(place)
        later = place > links.at[product]
        if later and (ops[place].scan is not None or number(ops[place]) in network.kernels):
            return False
        waiting += links.reads[place] if later else ()
    return True


def correction(found: Sum, old: Replay, new: Replay) -> Array | None:
    """What a product's result lacks for its sum to be the original's; None where it has folded."""
    wanted, own = (replay.operand(found.op, found.place) for replay in (old, new))
    if wanted.shape != own.shape:
        return None
    ones = jnp.ones(wanted.shape, jnp.float32)
    slope = _along(found, old, ones) - _along(found, old, jnp.zeros_like(ones))
    solid = jnp.abs(slope) > FAINT * jnp.max(jnp.abs(slope), initial=1e-30)
    apart = (wanted - own).astype(jnp.float32)
    return jnp.where(solid, apart / jnp.where(solid, slope, 1.0), 0.0)


def _along(found: Sum, old: Replay, value: Array) -> Array:
    for op, place in found.way:
        taken = [value if k == place else old.operand(op, k) for k in range(len(op.inputs))]
        value = old.run.apply(op, taken)[0].astype(jnp.float32)
    return value
