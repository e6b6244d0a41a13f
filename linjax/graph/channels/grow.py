"""Following a convolution's channels through all that reads them.

A site is accepted only if every reader of every value between the convolution and the maps that
read its channels is understood.
"""

import math
from typing import NamedTuple

from linjax.graph import activation, primitives
from linjax.graph.channels.constants import from_constants, ignores, is_zero
from linjax.graph.channels.convolutions import (
    PRIMITIVE,
    Behind,
    Context,
    ConvOp,
    Unfit,
    place_of,
)
from linjax.graph.channels.places import LINEAR, Place, constant_along, mixed, moved
from linjax.graph.channels.spreads import closure
from linjax.graph.maps import Activation, Convolution
from linjax.graph.program import Const, Op, Operand, Ref
from linjax.graph.structure import ChannelSite, Member, Reading, UnitLeaf
from linjax.graph.views import keeps_numbers, operand_id


class Interior(NamedTuple):
    """The values of a site, each with the place of its channels.

    Attributes:
      places: values that depend on the network's input.
      spreads: values computed from parameters, with their axis of one entry a unit.
      pre: the pre-activation.
      post: the value behind the elementwise operations that come first.
    """

    places: dict[int, Place]
    spreads: dict[int, int]
    pre: Ref
    post: Ref


class Product(NamedTuple):
    """A dense layer's product, as far as it matters here: its operand and contracted axis."""

    operand: Operand
    contract: int


class Growth:
    """Follows one convolution's channels through all that reads them."""

    def __init__(
        self, context: Context, convs: dict[int, tuple[str, ConvOp]],
        products: dict[int, tuple[str, Product]], depthwise: dict[int, str], conv: ConvOp,
        behind: Behind, static: Convolution,
    ) -> None:  # fmt: skip
        self.context, self.convs, self.products = context, convs, products
        self.depthwise, self.conv, self.behind, self.static = depthwise, conv, behind, static
        self.width = static.outputs
        first = context.program.ops[conv.at].outputs[0]
        self.places: dict[int, Place] = {first.id: place_of(conv)}
        for index in self._between(first):
            self.places[context.program.ops[index].outputs[0].id] = place_of(conv)
        self.pre = behind.pre
        self.inside = {self.pre.id}
        self.readings: dict[str, Reading] = {}
        self.among: dict[str | int, tuple[int, int]] = {}
        self.ops: list[Op] = []
        self.operands: list[Operand] = []
        self.unit_leaves: dict[int, int] = {}
        self.straight = static.groups == 1
        self.groups = static.groups
        self.crossed: set[int] = set()

    def _between(self, first: Ref) -> list[int]:
        """Operations from the convolution to its pre-activation: bias and scaling."""
        program, value, ops = self.context.program, first, []
        while value != self.behind.pre:
            (index,) = self.context.readers[value.id]
            ops.append(index)
            value = program.ops[index].outputs[0]
        return ops

    def grow(self) -> bool:
        """Finds the site's values and readers; returns whether there are any of the latter.

        Raises:
          Unfit: if something that reads its channels isn't understood.
        """
        context = self.context
        program, readers = context.program, context.readers
        if readers.get(self.pre.id) == [-1]:
            return False
        frontier = sorted(set(readers.get(self.pre.id, ())))
        while frontier:
            index = frontier.pop(0)
            if index < 0:
                raise Unfit("its channels are an output of the network")
            if self._is_reading(index):
                continue
            op = program.ops[index]
            out = op.outputs[0]
            place = self._place(index, op)
            self.ops.append(op)
            self.places[out.id] = place
            self.inside.add(out.id)
            frontier = sorted({*frontier, *readers.get(out.id, ())} - {index})
        if self.readings:
            self._check_parameters()
            self._check_groups()
        return bool(self.readings)

    def _is_reading(self, index: int) -> bool:
        """Whether an operation is a convolution or a product that reads the channels."""
        op = self.context.program.ops[index]
        mine = [o for o in op.inputs if isinstance(o, Ref) and o.id in self.inside]
        if index in self.convs and self.convs[index][1].operand == mine[0]:
            name, conv = self.convs[index]
            place = self.places[mine[0].id]
            if place.axis != conv.reads or place.flattened:
                raise Unfit(f"{name} reads another axis than the channels'")
            self.readings[name] = Reading(name)
            self.among[name] = place.among
            self._grouped(int(op.params["feature_group_count"]), place)
            return True
        if index in self.products and self.products[index][1].operand == mine[0]:
            name, product = self.products[index]
            place = self.places[mine[0].id]
            if place.axis != product.contract:
                raise Unfit(f"{name} contracts another axis than the channels'")
            self.readings[name] = Reading(name, place.outer, place.inner)
            self.among[name] = place.among
            return True
        return False

    def _grouped(self, groups: int, place: Place) -> None:
        """Takes note of the groups of a convolution that reads the channels."""
        if groups > 1 and any(place.among):
            raise Unfit("a grouped convolution reads its channels beside others")
        self.groups = math.lcm(self.groups, groups)
        self.straight &= groups == 1

    def _place(self, index: int, op: Op) -> Place:
        """Where an operation's result has the channels.

        Raises:
          Unfit: if it isn't channelwise.
        """
        program = self.context.program
        mine = [o for o in op.inputs if isinstance(o, Ref) and o.id in self.inside]
        place = self.places[mine[0].id]
        if len(op.outputs) != 1:
            raise Unfit(f"it is read by {op.name}, which isn't channelwise")
        if op.name in primitives.ELEMENTWISE:
            if len({self.places[o.id] for o in mine}) != 1:
                raise Unfit(f"values of different layout meet in {op.name}")
            for other in op.inputs:
                if other not in mine:
                    self._other(op, other, place)
            return place
        if index in self.depthwise and op.inputs[0] == mine[0]:
            return self._depthwise(index, op, place)
        to = None
        if op.name == "dot_general" and len(mine) == 1:
            side = op.inputs.index(mine[0])
            known = from_constants(self.context, op.inputs[1 - side])
            to = mixed(op, program, place, side) if known else None
        elif op.name == "concatenate" and len(mine) == 1:
            to = moved(op, program, place, self.width, op.inputs.index(mine[0]))
        elif op.inputs[0] == mine[0] and self._others_known(op):
            to = moved(op, program, place, self.width)
        if to is None:
            raise Unfit(self._reader(op, mine[0]))
        pads_zero = op.name == "pad" and is_zero(self.context, op.inputs[1])
        self.straight &= op.name in LINEAR or pads_zero
        return to

    def _others_known(self, op: Op) -> bool:
        """Whether all operands but the first are constants, or computed from constants."""
        return all(from_constants(self.context, o) for o in op.inputs[1:])

    def _other(self, op: Op, other: Operand, place: Place) -> None:
        """Checks the second operand of an elementwise operation."""
        context = self.context
        spread = context.spreads.get(operand_id(other))
        if spread is not None:
            fits = (spread.axis, spread.width) == (place.axis, place.extent(self.width))
            if not fits or place.flattened:
                raise Unfit(f"{op.name} with a parameter that isn't one entry a channel")
            self.operands.append(other)
            for leaf in spread.leaves:
                shape = context.leaves[leaf].shape
                axis = next((a for a, n in enumerate(shape) if n != 1), len(shape) - 1)
                self._unit_leaf(leaf, axis, place)
            return
        if isinstance(other, Const) and constant_along(other, place):
            return
        if activation.constant(context.program, other) is not None:
            return
        if isinstance(other, Ref) and ignores(context, other, place):
            return
        if operand_id(other) in context.views.derived:
            raise Unfit(f"{op.name} with a parameter that isn't one entry a channel")
        if op.name in ("add", "sub"):
            raise Unfit("its channels are added to another branch (a residual sum)")
        raise Unfit(f"{op.name} with another value that depends on the input")

    def _unit_leaf(self, leaf: int, axis: int, place: Place) -> None:
        """Takes note of a parameter with one entry, or slice, a channel."""
        if self.among.setdefault(leaf, place.among) != place.among:
            raise Unfit("a parameter is used with other channels beside these, too")
        self.unit_leaves[leaf] = axis

    def _depthwise(self, index: int, op: Op, place: Place) -> Place:
        """A depthwise convolution: its kernel is a parameter with one slice a channel."""
        context, numbers = self.context, op.params["dimension_numbers"]
        if place.axis != int(numbers.lhs_spec[1]) or place.flattened:
            raise Unfit("a depthwise convolution reads another axis than the channels'")
        kernel = op.inputs[1]
        leaf = context.views.of(kernel)
        axis = context.views.axes[operand_id(kernel)][numbers.rhs_spec[0]]
        if axis is None or context.views.uses[leaf] != 1:
            raise Unfit("the kernel of a depthwise convolution is shared")
        self._unit_leaf(leaf, axis, place)
        self.straight = False
        self.crossed.add(index)
        return place._replace(axis=int(numbers.out_spec[1]))

    def _reader(self, op: Op, value: Ref) -> str:
        """Says what reads the channels and isn't channelwise."""
        if op.name == PRIMITIVE:
            return "it is read by a convolution whose kernel isn't a parameter of its own"
        if op.name == "dot_general":
            return "it is multiplied with a kernel that can't be folded, or with another value"
        if op.name == "concatenate":
            return "its channels are concatenated with themselves, or along another axis"
        if op.name in primitives.LAYOUT:
            shapes = (
                f"{self.context.program.shape(value)} → {self.context.program.shape(op.outputs[0])}"
            )
            return f"{op.name} {shapes} mixes the channels with other axes"
        if op.name.startswith("reduce_"):
            return f"{op.name} over its channels (a normalisation over them, or a mean)"
        return f"it is read by {op.name}, which isn't channelwise"

    def _check_groups(self) -> None:
        """Groups of a single channel can't lose any."""
        if self.groups > self.width // 2:
            raise Unfit(f"groups of a single channel ({self.groups} groups)")

    def _check_parameters(self) -> None:
        """Parameters with one entry a channel must be read by nothing else."""
        context = self.context
        refs = closure(context.program, self.operands, context.spreads)
        indices = {i for i, op in enumerate(context.program.ops) if any(op is o for o in self.ops)}
        if not context.only_here(refs, indices):
            raise Unfit("a parameter of its activation is used elsewhere, too")

    def site(self, together: dict[str | int, tuple[Member, ...]]) -> ChannelSite:
        """Returns the site, given what channels are concatenated with, by reader and by leaf."""
        context = self.context
        first = self._elementwise_first()
        free = not any(
            isinstance(o, Ref) and o.id in context.spreads for op in first for o in op.inputs
        )
        name = "·".join(dict.fromkeys(op.name for op in first))
        described = (
            activation.describe(context.program, first, self.pre, {}, {}, self._ends(first))
            if free
            else Activation(name, per_unit=True)
        )
        rest = self.ops[len(first) :]
        return ChannelSite(
            name=self.static.name,
            producer=self.static.name,
            readings=tuple(
                reading._replace(members=together.get(name, ()))
                for name, reading in self.readings.items()
            ),
            width=self.width,
            activation=described,
            steps=tuple(dict.fromkeys(map(self._step_name, rest))),
            unit_leaves=tuple(
                UnitLeaf(context.leaves[leaf].path, axis, together.get(leaf, ()))
                for leaf, axis in sorted(self.unit_leaves.items())
            ),
            straight=self.straight,
            groups=self.groups,
        )

    def _ends(self, first: list[Op]) -> list[Ref]:
        """The values that anything behind the elementwise operations that come first reads."""
        program, readers = self.context.program, self.context.readers
        own = {id(op) for op in first}
        values = (self.pre, *(op.outputs[0] for op in first))
        return [v for v in values if any(id(program.ops[i]) not in own for i in readers[v.id])]

    def _step_name(self, op: Op) -> str:
        """An operation's name, and in what way it isn't linear where its name doesn't tell."""
        mine = [o for o in op.inputs if isinstance(o, Ref) and o.id in self.inside]
        under = op.name == "div" and op.inputs[1] in mine
        if under or (op.name == "mul" and len(mine) > 1):
            return f"{op.name} of its own values"
        made = self.context.program.makers() if op.name == "convert_element_type" else {}
        return op.name if keeps_numbers(self.context.program, made, op) else "rounding"

    def _elementwise_first(self) -> list[Op]:
        first = []
        for op in self.ops:
            if op.name not in primitives.ELEMENTWISE or self._varies(op):
                break
            first.append(op)
        return first

    def _varies(self, op: Op) -> bool:
        """Whether an operation multiplies with something that differs from place to place."""
        others = [o for o in op.inputs if not (isinstance(o, Ref) and o.id in self.inside)]
        spread = any(operand_id(o) in self.context.spreads for o in others)
        shapes = [self.context.program.shape(o) for o in others]
        return op.name in ("mul", "div") and not spread and any(shapes)

    def interior(self) -> Interior:
        """Returns the site's values."""
        context, first = self.context, self._elementwise_first()
        spreads = closure(context.program, self.operands, context.spreads) | self.behind.spreads
        axes = {ref: context.spreads[ref].axis for ref in spreads}
        for index in self.crossed:
            kernel = context.program.ops[index].inputs[1]
            leaf = context.views.of(kernel)
            for ref, of in context.views.leaf.items():
                view = context.views.axes[ref]
                if of == leaf and self.unit_leaves[leaf] in view:
                    axes[ref] = view.index(self.unit_leaves[leaf])
        post = first[-1].outputs[0] if first else self.pre
        return Interior(self.places, axes, self.pre, post)
