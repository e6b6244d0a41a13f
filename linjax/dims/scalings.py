"""Per-unit affine maps behind products, such as batch norm: what a fold multiplies into kernels.

A pytree without their parameters has them in the kernel and its bias: their operations are
skipped.
"""

from typing import NamedTuple

from linjax.dims.layout import LAID_OUT, Layout, number
from linjax.dims.sites import Product
from linjax.dims.values import Source
from linjax.program.flat import Op, Ref

_STEPS = ("add", "sub", "mul", "div")


class Scaling(NamedTuple):
    """A per-unit affine map.

    Attributes:
      leaves: numbers of its parameters, which nothing else uses.
      ops: its operations, each with the place of the operand that is the product's result.
    """

    leaves: frozenset[int]
    ops: dict[int, int]


def find_scalings(
    layout: Layout, kernels: dict[int, Product], biases: dict[int, frozenset[int]]
) -> tuple[Scaling, ...]:
    """Finds the per-unit affine maps behind products.

    Args:
      layout: the network's dimensions.
      kernels: by operation, the products whose kernels are leaves.
      biases: by product, leaves that are added to its result, and no part of what is sought.
    """
    made, users, none = _leaves(layout), _users(layout), frozenset[int]()
    found = []
    for product in kernels:
        own = _behind(layout, product, users, made, biases.get(product, frozenset()))
        if own is None:
            continue
        readers = {
            number(op)
            for op in layout.program.all_ops()
            if layout.values[number(op)].source is Source.DATA
            and any(isinstance(o, Ref) and own.leaves & made.get(o.id, none) for o in op.inputs)
        }
        if readers <= own.ops.keys():
            found.append(own)
    return tuple(found)


def _behind(
    layout: Layout, product: int, users: dict[int, list[Op]], made: dict[int, frozenset[int]],
    biases: frozenset[int],
) -> Scaling | None:  # fmt: skip
    """Follows a product's result through steps that parameters and constants take with it."""
    ref, steps, none = product, dict[int, int](), frozenset[int]()
    found = None
    while len(users.get(ref, ())) == 1:
        op = users[ref][0]
        place = next(k for k, o in enumerate(op.inputs) if isinstance(o, Ref) and o.id == ref)
        ref = number(op)
        if op.name in LAID_OUT:
            continue
        if op.name not in _STEPS or (op.name == "div" and place):
            break
        other = op.inputs[1 - place]
        if layout.operand(op, 1 - place).source is Source.DATA:
            break
        leaves = made.get(other.id, none) if isinstance(other, Ref) else none
        if leaves and leaves <= biases:
            continue
        steps[ref] = place
        known = none if found is None else found.leaves
        if leaves:
            found = Scaling(known | leaves, dict(steps))
    return found


def _users(layout: Layout) -> dict[int, list[Op]]:
    """By value that is no output, the operations that take it."""
    found = layout.program.takers()
    for operand in layout.program.outputs:
        if isinstance(operand, Ref):
            found.pop(operand.id, None)
    return found


def _leaves(layout: Layout) -> dict[int, frozenset[int]]:
    """By value of parameters alone, the leaves that it is computed from."""
    found = {ref.id: frozenset((n,)) for n, ref in enumerate(layout.program.inputs)}
    found = {i: own for i, own in found.items() if layout.values[i].source is Source.PARAMETER}
    for op in layout.program.ops:
        own = frozenset[int]().union(
            *(found.get(o.id, frozenset()) for o in op.inputs if isinstance(o, Ref))
        )
        for ref in op.outputs:
            if own and layout.values[ref.id].source is Source.PARAMETER:
                found[ref.id] = own
    return found
