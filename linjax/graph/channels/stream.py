"""Executing convolutions and what stands behind them with as many channels as a pytree holds.

Inside a site the channels with their activation take the traced way; linear channels take
the same way without the activation, and meet them where both are read.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from linjax.graph import primitives
from linjax.graph.channels import shapes, vanished, windows
from linjax.graph.channels.convolutions import ConvOp
from linjax.graph.channels.members import run_of
from linjax.graph.channels.places import Place, part_of, rerun
from linjax.graph.channels.sites import Channels
from linjax.graph.channels.windows import Windows
from linjax.graph.program import Const, Op, Operand, Program, Ref
from linjax.graph.pytree import Flat
from linjax.graph.structure import Graph

Array = Any


class Parts(NamedTuple):
    """Channels on their way.

    Attributes:
      units: with their activation, None without any.
      linear: linear channels, None without any.
      through: all units' pre-activations as they would arrive without the activation, where
        that was asked for.
    """

    units: Array | None
    linear: Array | None = None
    through: Array | None = None


class ChannelTap(NamedTuple):
    """What passes a site.

    Attributes:
      pre: pre-activations ``(samples, k)``, None without units.
      post: activations, likewise.
      reads: by reader what it reads, in the layout of the traced operand, and how.
    """

    pre: Array | None
    post: Array | None
    reads: dict[str, tuple[Parts, Windows]]


class ChannelRun:
    """The part of an execution that concerns convolutions."""

    def __init__(
        self, program: Program, graph: Graph, channels: Channels, flat: Flat, env: dict[int, Array],
        probes: Mapping[str, Array], through: bool,
    ) -> None:  # fmt: skip
        self.program, self.graph, self.channels = program, graph, channels
        self.flat, self.env, self.probes, self.through = flat, env, probes, through
        self.streams: dict[int, Parts] = {}
        self.taps: dict[str, ChannelTap] = {}
        self.read: dict[str, tuple[Array, Windows]] = {}
        self.results: dict[str, Array] = {}
        self.at = {conv.at: name for name, conv in channels.convs.items()}
        self.places: dict[int, Place] = {}
        self.traced: dict[int, int] = {}
        self.spreads: dict[int, int] = {}
        traced = {site.name: site.width for site in graph.channels}
        for name, interior in channels.interiors.items():
            self.spreads |= interior.spreads
            for ref, place in interior.places.items():
                self.places[ref] = place._replace(below=0, above=0)
                self.traced[ref] = traced[name] + sum(place.among)
        self.static = {conv.name: conv for conv in graph.convolutions}
        self.slides = {c.name: vanished.slides_as(graph, c, flat) for c in graph.convolutions}
        self.sources = {r.consumer: (s.name, r.members) for s in graph.channels for r in s.readings}
        self.widths = shapes.widths(graph, flat)
        self.straight = {site.name: site.straight for site in graph.channels}
        self.pre = {behind.pre.id: name for name, behind in channels.behind.items()}
        self.post = {i.post.id: name for name, i in channels.interiors.items()}
        self.merged: dict[int, str] = {}
        for name, behind in channels.behind.items():
            if behind.scaling is not None and behind.scaling.leaves[0] not in flat:
                self.merged |= dict.fromkeys(behind.ops, name)

    def kernels(self) -> set[int]:
        """Numbers of the kernel leaves, which are used nowhere else."""
        return {self.program.leaves[conv.leaf].id for conv in self.channels.convs.values()}

    def handle(self, index: int, op: Op) -> bool:
        """Executes an operation if it belongs to convolutions; returns whether it does."""
        inputs = [o for o in op.inputs if isinstance(o, Ref)]
        if index in self.at:
            self._convolve(self.at[index], op)
        elif index in self.merged:
            self._pass(self.merged[index], op)
        elif op.outputs[0].id in self.places and any(ref.id in self.streams for ref in inputs):
            self._inside(op)
        elif op.outputs[0].id in self.spreads:
            self._parameter(op)
        else:
            return False
        self._after(op.outputs[0])
        return True

    def after(self, op: Op) -> None:
        """Looks at a value that was computed as traced: it may be a pre-activation."""
        self._after(op.outputs[0])

    def features(self, operand: Operand, axis: int, name: str) -> Array | None:
        """What an affine map reads if it reads channels, None if it doesn't."""
        if not isinstance(operand, Ref) or operand.id not in self.streams:
            return None
        parts = self.streams[operand.id]
        if name in self.channels.convs:
            read = self._windows(name)
        else:
            place, rank = self.places[operand.id], len(self.program.shape(operand))
            read = windows.of_product(rank, axis, place.outer, place.inner)
        for site, own in self._own(parts, self.places[operand.id], name).items():
            self.taps[site].reads[name] = own, read
        both = [p for p in (parts.units, parts.linear) if p is not None]
        return both[0] if len(both) == 1 else jnp.concatenate(both, axis=axis)

    def _own(self, parts: Parts, place: Place, reader: str) -> dict[str, Parts]:
        """What a reader reads of every site's channels, which may be concatenated."""
        source, members = self.sources[reader]
        if not members:
            return {source: parts}
        found, passed = {}, 0
        for site in (member.site for member in members if member.site):
            run = run_of(members, self.widths, site)
            through = run.own.units if self.through and self.straight[site] else 0
            runs = zip(parts, (run.unit, run.linear, passed), (*run.own, through), strict=True)
            found[site] = Parts(*(part_of(x, place, a, n) if n else None for x, a, n in runs))
            passed += through
        return found

    def _read(self, operand: Operand) -> Array | None:
        return operand.value if isinstance(operand, Const) else self.env.get(operand.id)

    def _convolve(self, name: str, op: Op) -> None:
        conv, static, out = self.channels.convs[name], self.static[name], op.outputs[0]
        read = self.features(conv.operand, conv.reads, name)
        read = self._read(conv.operand) if read is None else read
        self.read[name] = read, self._windows(name)
        if vanished.gone(static, self.flat):
            self.taps[name] = ChannelTap(None, None, {})
            passed = vanished.stepped(op, read) if static.pointwise else read
            self.streams[out.id] = Parts(None, passed)
            return
        convolve = self._convolution(name, read)
        extra = None if static.bias is not None else self.flat.get(static.extra("bias"))
        units = convolve(self.flat.get(static.kernel), extra)
        linear = convolve(
            self.flat.get(static.extra("linear")), self.flat.get(static.extra("linear_bias"))
        )
        if name in self.channels.interiors:
            self.taps[name] = ChannelTap(None, None, {})
            self.streams[out.id] = Parts(units, linear)
        else:
            self.env[out.id] = units

    def _sliding(self, name: str) -> tuple[ConvOp, Op, dict[str, Any]]:
        """The convolution by whose window a kernel slides, with what differs in its parameters."""
        conv = self.channels.convs[self.slides[name].name]
        op, own = (self.program.ops[at] for at in (conv.at, self.channels.convs[name].at))
        changed = {} if op is own else {"window_strides": vanished.strides(op, own)}
        return conv, op, changed

    def _windows(self, name: str) -> Windows:
        _, op, changed = self._sliding(name)
        return windows.of_convolution(op.params | changed, self.program.shape(op.inputs[1]))

    def _convolution(
        self, name: str, read: Array
    ) -> Callable[[Array | None, Array | None], Array | None]:
        conv, op, changed = self._sliding(name)
        static, slides = self.static[name], self.slides[name]
        own = self.program.ops[self.channels.convs[name].at]
        dtypes = [self._dtype(o) for o in op.inputs]
        view = [static.axes[slides.axes.index(axis)] for axis in conv.view]
        axis = self.channels.convs[name].axis

        def convolve(kernel: Array | None, bias: Array | None) -> Array | None:
            if kernel is None:
                return None
            kernel = jnp.transpose(jnp.asarray(kernel, dtypes[1]), view)
            (value,) = op.bind(jnp.asarray(read, dtypes[0]), kernel, **changed)
            if op is not own:
                value = vanished.arranged(own, value.astype(self._dtype(own.outputs[0])))
            if bias is None:
                return value
            shape = [1] * value.ndim
            shape[axis] = -1
            return value + bias.astype(value.dtype).reshape(shape)

        return convolve

    def _dtype(self, operand: Operand) -> Any:
        return (
            operand.value.dtype
            if isinstance(operand, Const)
            else self.program.avals[operand.id].dtype
        )

    def _pass(self, name: str, op: Op) -> None:
        """Skips an operation that was multiplied into the kernel."""
        ids = [o.id for o in op.inputs if isinstance(o, Ref)]
        for ref in ids:
            if ref in self.streams:
                self.streams[op.outputs[0].id] = self.streams[ref]
                return
        spreads = self.channels.behind[name].spreads
        known = [ref for ref in ids if ref in self.env and ref not in spreads]
        self.env[op.outputs[0].id] = self.env[known[0]]

    def _parameter(self, op: Op) -> None:
        """Computes a value of parameters with one entry a unit, of which there may be fewer."""
        values = [self._read(o) for o in op.inputs]
        if any(v is None for v in values):
            return
        out, axis = op.outputs[0], self.spreads[op.outputs[0].id]
        traced = self.program.shape(out)[axis]
        refs = [o for o in op.inputs if isinstance(o, Ref) and o.id in self.spreads]
        before, now = self._leaf_axis(refs[0])
        place = Place(axis)
        self.env[out.id] = rerun(op, tuple(values), Place(before), place, now, traced)

    def _leaf_axis(self, ref: Ref) -> tuple[int, int]:
        axis = self.spreads[ref.id]
        return axis, self.env[ref.id].shape[axis]

    def _inside(self, op: Op) -> None:
        """Executes a channelwise operation on all parts."""
        out = op.outputs[0]
        refs = [o for o in op.inputs if isinstance(o, Ref) and o.id in self.streams]
        if op.name == "concatenate":
            self.streams[out.id] = self._joined(op)
            return
        before, after, traced = self.places[refs[0].id], self.places[out.id], self.traced[out.id]

        def run(part: str) -> Array:
            values = tuple(
                getattr(self.streams[o.id], part)
                if isinstance(o, Ref) and o.id in self.streams
                else self._read(o)
                for o in op.inputs
            )
            first = getattr(self.streams[refs[0].id], part)
            now = first.shape[before.axis] // (before.outer * before.inner)
            return rerun(op, values, before, after, now, traced)

        first = self.streams[refs[0].id]
        units = None if first.units is None else run("units")
        if op.name in primitives.ELEMENTWISE and not self._tail(op, refs):
            self.streams[out.id] = first._replace(units=units)
            return
        linear = None if first.linear is None else run("linear")
        through = None if first.through is None else run("through")
        self.streams[out.id] = Parts(units, linear, through)

    def _joined(self, op: Op) -> Parts:
        """Concatenates channels: units of all, then linear channels of all."""
        axis = self.places[op.outputs[0].id].axis
        parts = [
            self.streams[o.id]
            if isinstance(o, Ref) and o.id in self.streams
            else Parts(self._read(o))
            for o in op.inputs
        ]
        there = [[x for x in kind if x is not None] for kind in zip(*parts, strict=True)]
        return Parts(*(jnp.concatenate(kind, axis) if kind else None for kind in there))

    def _tail(self, op: Op, refs: list[Ref]) -> bool:
        """Whether an elementwise operation is linear and varies over space: a mean's divisor."""
        if op.name not in ("mul", "div") or len(refs) != 1 or op.inputs[0] != refs[0]:
            return False
        other = op.inputs[1]
        if isinstance(other, Ref) and other.id in self.spreads:
            return False
        return len(self.program.shape(other)) > 0

    def _after(self, out: Ref) -> None:
        """Adds probes to pre-activations and takes note of what passes."""
        if out.id in self.pre:
            self._pre_activation(self.pre[out.id], out)
        if out.id in self.post and out.id in self.streams:
            name, units = self.post[out.id], self.streams[out.id].units
            if units is not None:
                flat = self._flattened(units, self.places[out.id].axis)
                self.taps[name] = self.taps[name]._replace(post=flat)

    def _pre_activation(self, name: str, out: Ref) -> None:
        axis = self.channels.convs[name].axis
        value = self.streams[out.id].units if out.id in self.streams else self.env.get(out.id)
        if value is None:
            return
        if name in self.probes:
            moved = jnp.moveaxis(value, axis, -1)
            moved = moved + self.probes[name].reshape(moved.shape)
            value = jnp.moveaxis(moved, -1, axis)
            if out.id in self.streams:
                self.streams[out.id] = self.streams[out.id]._replace(units=value)
            else:
                self.env[out.id] = value
        self.results[name] = self._flattened(value, axis)
        if out.id not in self.streams:
            return
        self.taps[name] = self.taps[name]._replace(pre=self._flattened(value, axis))
        if self.through and self.straight[name]:
            self.streams[out.id] = self.streams[out.id]._replace(through=value)

    def _flattened(self, value: Array, axis: int) -> Array:
        value = jnp.moveaxis(value, axis, -1)
        return value.reshape(-1, value.shape[-1])
