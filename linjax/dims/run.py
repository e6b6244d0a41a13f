"""Running a traced program on leaves of other sizes.

Every operation is bound again with the shapes that its axes' dimensions have now. What may stand
beside kernels is told in :mod:`linjax.dims.leaves`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from linjax.dims import fitting, products
from linjax.dims.carrying import Way, runs
from linjax.dims.depthwise import bound
from linjax.dims.layout import number
from linjax.dims.leaves import EXTRAS, constant_of, leaf_of
from linjax.dims.network import Network
from linjax.dims.rules import RULES, elementwise
from linjax.dims.rules.rule import Now
from linjax.dims.sites import Product
from linjax.dims.sizes import Flat, Sizes, read_sizes
from linjax.dims.values import Source
from linjax.program import compat
from linjax.program.flat import Const, Op, Operand, Program, Ref
from linjax.program.steps import computed, has_own
from linjax.program.traced import is_unstopped

Array = Any


class Extras(NamedTuple):
    """Leaves that a fold put beside a kernel; None where absent."""

    bias: Array | None = None
    linear: Array | None = None
    down: Array | None = None
    linear_offset: Array | None = None


class Outcome(NamedTuple):
    """What a run gives: the outputs, and the values that were asked for, by their numbers."""

    outputs: Any
    values: dict[int, Array]


def execute(
    network: Network, flat: Flat, inputs: Sequence[Array], taps: frozenset[int] = frozenset(),
    probes: Mapping[int, Array] | None = None, unread: frozenset[int] = frozenset(),
) -> Outcome:  # fmt: skip
    """Runs a network on original or folded leaves.

    Args:
      network: the traced network.
      flat: its parameters by path.
      inputs: the leaves of its inputs.
      taps: numbers of values to return, too; those in a scan come with its steps in front.
      probes: arrays to add to values, by number.
      unread: dimensions at whose linear coordinates all that reads them has zeros, see
        :func:`linjax.evidence.expand.expanded`; products leave them away where that is simple.

    Raises:
      StructureError: if the leaves don't fit the network, naming the path.
    """
    run, leaves = begin(network, flat, inputs, taps, probes)
    run.unread = unread
    outputs = run.program(network.layout.program, [*leaves, *inputs])
    return Outcome(jax.tree.unflatten(network.layout.out_tree, outputs), run.found)


def begin(
    network: Network, flat: Flat, inputs: Sequence[Array], taps: frozenset[int] = frozenset(),
    probes: Mapping[int, Array] | None = None,
) -> tuple["Run", list[Array]]:  # fmt: skip
    """Returns a run that hasn't begun, and what the program takes of the leaves."""
    sizes = read_sizes(network, flat, inputs)
    run = Run(network, sizes, taps, dict(probes or {}))
    for leaf in range(len(network.paths)):
        own = Extras(*(flat.get(network.extra(leaf, kind)) for kind in EXTRAS))
        if own.linear is not None and own.linear is flat.get(network.paths[leaf]):
            own = own._replace(linear=None)
            run.copied.add(leaf)
        if leaf in run.copied or any(x is not None for x in own):
            run.extras[leaf] = own
    for key in network.varying:
        if (constant := constant_of(network, key, flat, sizes)) is not None:
            run.constants[key] = constant
    return run, [leaf_of(network, n, flat, sizes) for n in range(len(network.paths))]


class Run:
    """One run of a program: its values so far, and those that were asked for.

    Attributes:
      copied: leaves whose linear coordinates are made by the kernel itself: it multiplies once.
      unread: as of :func:`execute`.
    """

    def __init__(
        self, network: Network, sizes: Sizes, taps: frozenset[int], probes: dict[int, Array]
    ) -> None:
        self.network, self.layout, self.sizes = network, network.layout, sizes
        self.taps, self.probes = taps, probes
        self.extras: dict[int, Extras] = {}
        self.copied: set[int] = set()
        self.unread: frozenset[int] = frozenset()
        self.constants: dict[tuple[int, int], Array] = {}
        self.found: dict[int, Array] = {}
        self.env: dict[int, Array] = {}
        self.passing = {
            product.op: (way, k)
            for way in network.ways
            if way.dim in sizes.ways
            for k, product in enumerate(way.makers)
        }

    def program(self, program: Program, arguments: Sequence[Array]) -> list[Array]:
        """Runs a program on some arguments."""
        self.start(program, arguments)
        for op in program.ops:
            self.step(op)
        return self.results(program)

    def start(self, program: Program, arguments: Sequence[Array]) -> None:
        """Keeps a program's arguments."""
        for ref, value in zip(program.inputs, arguments, strict=True):
            self.put(ref, value)

    def results(self, program: Program) -> list[Array]:
        """A program's outputs, which are there."""
        return [o.value if isinstance(o, Const) else self.env[o.id] for o in program.outputs]

    def step(self, op: Op) -> None:
        """Runs one operation, whose operands are there."""
        with op.within():
            values = [self.read(op, place, o) for place, o in enumerate(op.inputs)]
            for ref, result in zip(op.outputs, self.apply(op, values), strict=True):
                self.put(ref, result)

    def put(self, ref: Ref, value: Array) -> None:
        """Keeps a value, with its probe added."""
        if ref.id in self.probes:
            value = value + self.probes[ref.id].reshape(value.shape).astype(value.dtype)
        self.env[ref.id] = value
        if ref.id in self.taps:
            self.found[ref.id] = value

    def read(self, op: Op, place: int, operand: Operand) -> Array:
        """An operand, with its linear coordinates where they join."""
        key = (number(op), place)
        if isinstance(operand, Const):
            return self.constants.get(key, operand.value)
        value = self.env[operand.id]
        joining = [(d, r) for d, r in self.network.merges.get(key, ()) if d in self.sizes.beside]
        for dim, roots in joining:
            held, straight = self.layout.values[operand.id], self.env[roots[0]]
            for root in roots[1:]:
                straight = straight + self.env[root]
            if operand.id in self.probes:  # the value's own, in which linear ones didn't stand yet
                straight = straight + self.probes[operand.id].reshape(straight.shape)
            value = fitting.merged(value, straight, held, dim, self.sizes)
        if joining and operand.id in self.taps:
            self.found[operand.id] = value
        return value

    def apply(self, op: Op, values: list[Array]) -> tuple[Array, ...]:
        """Applies an operation."""
        if op.scan is not None:
            return self.scan(op, values)
        if number(op) in self.sizes.skipped:
            return (values[self.sizes.skipped[number(op)]],)
        kernel = self.network.kernels.get(number(op))
        passing = self.passing.get(number(op))
        extras = self.extras.get(kernel.leaf) if kernel is not None else None
        alone = extras is None or extras.linear is extras.down is None
        carries = passing is not None and any(self.sizes.ways[passing[0].dim].carried)
        if kernel is not None and alone and not carries:
            for axes in products.contracted(op) if self.unread else ():
                span = self.layout.operand(op, kernel.data).spans[axes[kernel.data]]
                values = fitting.read(values, axes, span, self.sizes, self.unread)
        if kernel is not None and (extras is not None or passing is not None):
            return (self.product(op, values, kernel, extras or Extras(), passing),)
        return self.bind(op, values)

    def bind(self, op: Op, values: list[Array]) -> tuple[Array, ...]:
        """Applies a primitive at the sizes of now."""
        if is_relu(op):
            return (jax.nn.relu(values[0]),)  # the same values, and relu's own derivative at zero
        if is_unstopped() and op.name == "stop_gradient":
            return (values[0],)
        if is_unstopped() and has_own(op.params) and (body := computed(op.params)) is not None:
            return tuple(compat.jaxpr_as_fun(body)(*values))
        rule = RULES.get(op.name)
        held = [self.layout.operand(op, place) for place in range(len(op.inputs))]
        outs = [self.layout.values[ref.id] for ref in op.outputs]
        met = set().union(*(h.dims() for h in (*held, *outs)))
        if rule is None or not met & self.sizes.changed:
            return bound(op, values)
        alone = op.name in elementwise.RULES and outs[0].source is Source.PARAMETER
        result = outs[0] if alone else None
        for place, (own, operand) in enumerate(zip(held, op.inputs, strict=True)):
            if isinstance(operand, Const) or op.name in elementwise.RULES:
                values[place] = fitting.fitted(values[place], own, self.sizes, result)
        if op.name in ("sharding_constraint", "reshard"):
            return tuple(values)  # what was meant for other shapes
        sizes = self.sizes.of(outs[0])
        now = Now(
            op=op,
            ins=tuple(h.spans for h in held),
            outs=tuple(h.spans for h in outs),
            values=tuple(values),
            size=lambda span: span.now(sizes),
            point=lambda span, index: span.point(index, sizes),
        )
        return bound(op, values, **rule.resized(now))

    def product(
        self, op: Op, values: list[Array], own: Product, extras: Extras,
        passing: tuple[Way, int] | None,
    ) -> Array:  # fmt: skip
        """A product with a kernel that a fold has put something beside."""
        data, kernel, source = own.data, op.inputs[1 - own.data], values[own.data]
        inner: Array | None = None
        times: Callable[..., Array] = functools.partial(products.times, op, source, data=data)
        if extras.down is not None:
            inner, times = products.behind(op, source, self.viewed(kernel, extras.down), data)
            # It reads directions of the first factor, to whose number nothing on its way is fitted.
            values[1 - data] = self.viewed(kernel, self.env[self.leaf_of(kernel).id])
        result = None
        made = passing is None or bool(self.sizes.kept[passing[0].dim])
        if made and (0 not in values[1 - data].shape or extras.linear is None):
            result = times(kernel=values[1 - data])
        axes = self.network.made_axes(number(op))
        linear = result if own.leaf in self.copied else None
        if result is not None:
            result = _plus(result, extras.bias, axes)
        if extras.linear is not None:
            linear = times(kernel=self.viewed(kernel, extras.linear))
            linear = _plus(linear, extras.linear_offset, axes)
        axis = self.network.linear_axis(number(op)) if linear is not None or passing else 0
        if passing is not None:
            features = products.features(op, source, data, inner, axis)
            return self.joined(op, result, linear, features, passing)
        parts = [part for part in (result, linear) if part is not None]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=axis)

    def joined(
        self, op: Op, made: Array | None, linear: Array | None, features: Array,
        passing: tuple[Way, int],
    ) -> Array:  # fmt: skip
        """What a product makes, with what passes by it; zeros where that is another product's."""
        way, place = passing
        beside, axis = self.sizes.ways[way.dim], self.network.linear_axis(number(op))
        dtype, shape = self.layout.program.avals[number(op)].dtype, features.shape

        def nothing(size: int) -> Array:
            return jnp.zeros([*shape[:axis], size, *shape[axis + 1 :]], dtype)

        parts = [nothing(beside.linear) if linear is None else linear]
        for width, carrier in zip(beside.carried, way.carriers, strict=True):
            mine = width and carrier == way.makers[place]
            parts.append(features.astype(dtype) if mine else nothing(width))
        count = runs(self.layout.values[number(op)].spans[axis], way.dim)
        first, *others = [nothing(0)] * count if made is None else jnp.split(made, count, axis)
        more = [part for own in others for part in (own, nothing(beside.all))]
        pieces = (p for p in (first, *parts, *more) if p.shape[axis])
        return jnp.concatenate([*pieces], axis=axis)

    def leaf_of(self, operand: Operand) -> Ref:
        """The leaf, or the step's slice of one, that a kernel is a view of."""
        while isinstance(operand, Ref) and operand.id in self.layout.makers:
            operand = self.layout.makers[operand.id].inputs[0]
        assert isinstance(operand, Ref)
        return operand

    def viewed(self, operand: Operand, array: Array) -> Array:
        """An array laid out as a kernel leaf is where it is used."""
        way: list[Op] = []
        while isinstance(operand, Ref) and operand.id in self.layout.makers:
            op = self.layout.makers[operand.id]
            way.append(op)
            operand = op.inputs[0]
        for op in reversed(way):
            if op.name not in ("copy", "name", "stop_gradient"):
                array = op.bind(array)[0]  # only transposes, casts and the like
        return array

    def scan(self, op: Op, values: list[Array]) -> tuple[Array, ...]:
        """Runs a body step by step; what belongs to its leaves is cut into steps with them."""
        scan = op.scan
        fixed = scan.consts + scan.carry
        bodies = [scan.body, *(o.scan.body for o in scan.body.all_ops() if o.scan is not None)]
        inside = {ref.id for o in scan.body.all_ops() for ref in o.outputs}
        inside |= {ref.id for body in bodies for ref in body.inputs}
        cut = {self.layout.values[ref.id].leaf for ref in scan.body.inputs[fixed:]}
        extras = {n: own for n, own in self.extras.items() if n in cut}
        probes = {n: own for n, own in self.probes.items() if n in inside}

        def step(carry: Any, slices: Any) -> Any:
            own, extra, probe = slices
            run = Run(self.network, self.sizes, self.taps, {**self.probes, **probe})
            run.extras = {**self.extras, **extra}
            run.constants = self.constants
            results = run.program(scan.body, [*values[: scan.consts], *carry, *own])
            found = {n: v for n, v in run.found.items() if n in inside}
            return results[: scan.carry], (results[scan.carry :], found)

        carry, (stacked, found) = lax.scan(
            step, values[scan.consts : fixed], (values[fixed:], extras, probes),
            length=scan.length, reverse=scan.reverse,
        )  # fmt: skip
        self.found.update(found)
        return (*carry, *stacked)


def _plus(result: Array, bias: Array | None, axes: tuple[int, ...]) -> Array:
    """A product's result with a bias along some axes, if there is one."""
    if bias is None:
        return result
    shape = [n if k in axes else 1 for k, n in enumerate(result.shape)]
    return result + bias.astype(result.dtype).reshape(shape)


def is_relu(op: Op) -> bool:
    """Whether an operation is the ``max(z, 0)`` inside of ``jax.nn.relu``."""
    if op.name != "max" or not op.custom:
        return False
    zero = op.inputs[1]
    return isinstance(zero, Const) and zero.shape == () and float(zero.value) == 0.0
