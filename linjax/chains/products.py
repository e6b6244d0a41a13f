"""Affine maps: products of data with a parameter leaf as one matrix, and their biases.

A kernel of several maps at once, ``a, b = split(v W + c)``, says what ``a = v W₁ + c₁`` and
``b = v W₂ + c₂`` say with runs of W's columns and of c: each part is a map.
"""

import collections
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.chains import leaves
from linjax.chains.maps import Part
from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.values import Source
from linjax.program.flat import Op, Operand, Ref


class Map(NamedTuple):
    """A product of data with a leaf, or with some of its columns.

    Attributes:
      at: the product's position in the program.
      leaf: number of the kernel's leaf.
      layout: axes of the leaf that hold inputs and outputs.
      part: which of the columns are its own.
      data: what it reads.
      contract: the axis of that which it sums over.
      results: its pre-activation, one value or several that are the same.
      axis: the axis of the units in that.
      bias: number of the bias' leaf, None without one.
    """

    at: int
    leaf: int
    layout: tuple[int, int]
    part: Part
    data: Operand
    contract: int
    results: tuple[Ref, ...]
    axis: int
    bias: int | None = None


class Program:
    """A network's program, with what its affine maps are looked up by.

    Attributes:
      network: the network.
      layout: its dimensions.
      ops: the operations.
      readers: positions of the operations that read each value; −1 stands for the outputs.
      uses: how many operations use each leaf.
      maps: products with a whole leaf, or with the columns that a leaf was cut to, by position.
    """

    def __init__(self, network: Network) -> None:
        self.network, self.layout = network, network.layout
        self.ops = self.layout.program.ops
        self.readers: dict[int, list[int]] = {}
        for at, op in enumerate(self.ops):
            for operand in op.inputs:
                if isinstance(operand, Ref):
                    self.readers.setdefault(operand.id, []).append(at)
        for operand in self.layout.program.outputs:
            if isinstance(operand, Ref):
                self.readers.setdefault(operand.id, []).append(-1)
        self.views = leaves.find_views(self.layout)
        self.uses = self._uses()
        found = ((at, self._map(at, op)) for at, op in enumerate(self.ops))
        self.maps = {at: own for at, own in found if own is not None}

    def shape(self, operand: Operand) -> tuple[int, ...]:
        """Shape of an operand."""
        return self.layout.program.shape(operand)

    def leaf_shape(self, leaf: int) -> tuple[int, ...]:
        """Shape of a leaf."""
        return self.shape(self.layout.program.inputs[leaf])

    @functools.cached_property
    def places(self) -> dict[int, int]:
        """Positions of the operations by number."""
        return {number(op): at for at, op in enumerate(self.ops)}

    def only(self, ref: Ref) -> int | None:
        """Position of the one operation that reads a value, None if it isn't the only one."""
        own = self.readers.get(ref.id, [])
        return own[0] if len(own) == 1 and own[0] >= 0 else None

    def seen(self, operand: Operand) -> leaves.Seen | None:
        """The leaf that an operand is a view of."""
        return self.views.get(operand.id) if isinstance(operand, Ref) else None

    def _uses(self) -> collections.Counter[int]:
        found = collections.Counter[int]()
        for operand in self.layout.program.outputs:
            found.update(_leaf(self.seen(operand)))
        for op in self.ops:
            shown = {leaf for out in op.outputs for leaf in _leaf(self.seen(out))}
            own = (leaf for operand in op.inputs for leaf in _leaf(self.seen(operand)))
            found.update(leaf for leaf in own if leaf not in shown)
        return found

    def unit_leaf(self, operand: Operand, axis: int, part: Part | None = None) -> int | None:
        """The leaf that holds one entry a unit along an axis, and nothing else."""
        view = self.seen(operand)
        run = None if view is None else view.along(axis)
        if view is None or run is None or len(self.leaf_shape(view.leaf)) != 1:
            return None
        own = _part(run[1], self.leaf_shape(view.leaf)[0])
        return view.leaf if own == (part or Part()) else None

    def _map(self, at: int, op: Op) -> Map | None:
        """Reads a product as affine map."""
        kernel = self.network.kernels.get(number(op))
        if kernel is None or op.name != "dot_general":
            return None
        contract, batch = op.params["dimension_numbers"]
        view = self.seen(op.inputs[1 - kernel.data])
        data = self.layout.operand(op, kernel.data)
        if view is None or batch[0] or len(contract[0]) != 1 or data.source is not Source.DATA:
            return None
        shape = self.leaf_shape(view.leaf)
        own = contract[1 - kernel.data][0]
        if len(shape) != 2 or len(view.axes) != 2 or None in view.axes:
            return None
        (row, rows), (column, columns) = view.axes[own], view.axes[1 - own]
        part = _part(columns, shape[column])
        dtype = self.layout.program.avals[self.network.ref(view.leaf)].dtype
        if part is None or rows != range(shape[row]) or not jnp.issubdtype(dtype, jnp.floating):
            return None
        if self.uses[view.leaf] != part.of:
            return None  # shared
        samples = len(self.shape(op.inputs[kernel.data])) - 1
        found = Map(
            at, view.leaf, (row, column), part, op.inputs[kernel.data],
            int(contract[kernel.data][0]), (op.outputs[0],), 0 if kernel.data else samples,
        )  # fmt: skip
        return self.biased(found)

    def biased(self, found: Map) -> Map:
        """Follows a map's result to its bias, cut apart as its kernel is."""
        if len(found.results) > 1:
            return found
        (value,), axis = found.results, found.axis
        while (at := self.only(value)) is not None:
            op = self.ops[at]
            if op.name in ("add", "add_any") and len(set(op.inputs)) == 2:
                other = op.inputs[1] if op.inputs[0] == value else op.inputs[0]
                leaf = self.unit_leaf(other, axis, found.part)
                if leaf is None or self.uses[leaf] != found.part.of:
                    break
                return found._replace(bias=leaf, results=(op.outputs[0],), axis=axis)
            moved = leaves.follow(self.layout, op, axis)
            if moved is None:
                break
            value, axis = op.outputs[0], moved
        return found

    def apart(self, whole: Map, width: int) -> tuple[Map, ...] | None:
        """The maps of equal parts that a map's result is cut into; None where it isn't."""
        (value,), size = whole.results, self.shape(whole.results[0])[whole.axis]
        found: dict[int, list[tuple[Ref, int]]] = collections.defaultdict(list)
        todo: list[tuple[Ref, tuple[int, ...], Any]] = [(value, (whole.axis,), np.arange(size))]
        while todo:
            ref, axes, index = todo.pop()
            if index.size == width and len(axes) == 1:
                found[int(index[0])].append((ref, axes[0]))
                continue
            for at in self.readers.get(ref.id, ()):
                steps = None if at < 0 else list(self._cut(self.ops[at], ref, axes, index))
                if not steps:
                    return None
                todo += steps
        if sorted(found) != list(range(0, size, width)):
            return None
        parts = []
        for n, start in enumerate(sorted(found)):
            refs, axes = zip(*sorted(found[start]), strict=True)
            if len(set(axes)) > 1:
                return None
            own = whole._replace(part=Part(n, size // int(width)), results=refs, axis=axes[0])
            parts.append(own if own.bias is not None else self.biased(own))
        return tuple(parts)

    def _cut(
        self, op: Op, ref: Ref, axes: tuple[int, ...], index: Any
    ) -> Iterator[tuple[Ref, tuple[int, ...], Any]]:
        """What an operation takes of a result: values, axes of the units, and which these are."""
        shape = self.shape(ref)
        if op.name in ("slice", "split"):
            for out in op.outputs:
                taken = leaves.bounds(op, out, shape)
                if all(taken[n] == (0, size, 1) for n, size in enumerate(shape) if n not in axes):
                    yield out, axes, index[tuple(slice(*taken[n]) for n in axes)]
        elif op.name in ("reshape", "squeeze"):
            after = self.shape(op.outputs[0])
            moved = leaves.regrouped(op, shape, after, axes)
            if moved is not None:
                yield op.outputs[0], moved, index.reshape([after[n] for n in moved])


def _leaf(view: leaves.Seen | None) -> list[int]:
    return [] if view is None else [view.leaf]


def _part(run: range, size: int) -> Part | None:
    """Which of equal parts a run of entries is."""
    if run.step != 1 or not len(run) or size % len(run) or run.start % len(run):
        return None
    return Part(run.start // len(run), size // len(run))
