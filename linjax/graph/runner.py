"""Executing a traced program on a folded parameter pytree.

Operations outside the sites run as traced. Inside a site they run again with as many
units as the pytree holds, beside the linear units and the residual path, which take the
same way but skip the activation.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from linjax.graph import primitives, reads
from linjax.graph.analysis import Analysis, Dot
from linjax.graph.channels import shapes
from linjax.graph.channels.stream import ChannelRun
from linjax.graph.flow import Flow, Parts, flows, parts_of, units_of
from linjax.graph.heads import HeadsRun
from linjax.graph.program import Const, Op, Operand, Program, Ref
from linjax.graph.pytree import Flat
from linjax.graph.structure import Part, Path

Array = Any


class Tap(NamedTuple):
    """What passes a site, as (samples, features) matrices.

    Attributes:
      source: what the producer reads, before any bottleneck.
      pre: pre-activations z of the units, None where the layer has disappeared.
      post: activations h, in the order in which the consumers read them.
    """

    source: Array
    pre: Array | None
    post: Array | None


class _Stream(NamedTuple):
    """Features on their way to the next affine map: activated, linear, residual."""

    units: Array | None
    linear: Array | None
    carried: Array | None

    def map(self, function: Callable[[Array], Array]) -> "_Stream":
        return _Stream(*(None if part is None else function(part) for part in self))


def execute(
    analysis: Analysis,
    flat: Flat,
    inputs: list[Array],
    probes: dict[str, Array] | None = None,
    through: bool = False,
) -> tuple[Any, dict[str, Any], dict[str, Array]]:
    """Runs a program on a (folded) flat pytree.

    Args:
      analysis: the program and its sites.
      flat: parameters by path.
      inputs: the input leaves.
      probes: arrays to add to affine maps' results (samples, outputs), by name; the
        derivative by a probe is the derivative by the pre-activation.
      through: whether channels without their activation should take the way, too, for taps.

    Returns:
      The outputs, a tap for every site, and the affine results (samples, outputs) by name.
    """
    return _Execution(analysis, flat, probes or {}, through).run(inputs)


def look(analysis: Analysis, flat: Flat, inputs: list[Array]) -> dict[str, reads.Read]:
    """Runs a program and returns what every affine map and convolution reads, in order."""
    run = _Execution(analysis, flat, {}, False)
    run.run(inputs)
    for name, (ref, axes) in reads.partners(analysis).items():
        if name in run.reads and ref.id in run.env:
            beside = jnp.transpose(run.env[ref.id], axes)
            run.reads[name] = run.reads[name]._replace(beside=beside)
    return run.reads


class _Execution:
    """One run: the environment of values, and the streams inside sites."""

    def __init__(
        self, analysis: Analysis, flat: Flat, probes: dict[str, Array], through: bool
    ) -> None:
        program, graph = analysis.program, analysis.graph
        self.program, self.analysis, self.flat, self.probes = program, analysis, flat, probes
        self.parts: dict[str, Parts] = {}
        self.flow: dict[str, Flow] = {}
        for chain in graph.chains:
            names = [name for group in chain.layers for name in group]
            for name, f, part in zip(names, *flows(graph, chain, flat), strict=True):
                self.flow[name], self.parts[name] = f, part
        self.mates = {mate for site in graph.sites for mate in site.mates}
        for affine in graph.affines:
            self.parts.setdefault(affine.name, parts_of(affine, flat))
        self.dot_at = {dot.at: name for name, dot in analysis.dots.items()}
        self.axis: dict[int, int] = {}
        self.owner: dict[int, str] = {}
        for name, interior in analysis.interiors.items():
            self.axis |= interior.axes
            self.owner |= dict.fromkeys(interior.axes, name)
        self.env: dict[int, Array] = {}
        self.streams: dict[int, _Stream] = {}
        self.taps: dict[str, Tap] = {}
        self.results: dict[str, Array] = {}
        self.reads: dict[str, reads.Read] = {}
        self.shared: dict[Path, Array] = {}
        self.scaled = analysis.scaled
        self.merged = {
            index
            for name, behind in self.scaled.items()
            if graph.affine(name).scaling.leaves[0] not in flat
            for index in behind.ops
        }
        shapes.check(graph, flat)
        self.channels = ChannelRun(
            program, graph, analysis.channels, flat, self.env, probes, through
        )

        self.heads = HeadsRun(program, analysis.heads, flat, self.env, probes)

    def run(self, inputs: list[Array]) -> tuple[Any, dict[str, Any], dict[str, Array]]:
        """Executes all operations in order."""
        kernels = {dot.leaf for dot in self.analysis.dots.values()}
        skipped = {self.program.leaves[leaf].id for leaf in kernels} | self.channels.kernels()
        for ref, leaf in zip(self.program.leaves, self.analysis.leaves, strict=True):
            if leaf.path in self.flat:
                cut = self.program.cuts.get(ref.id)
                value = self.flat[leaf.path]
                self.env[ref.id] = value if cut is None else cut.part.take(value, cut.axis)
        self.env |= {ref.id: x for ref, x in zip(self.program.inputs, inputs, strict=True)}
        for index, op in enumerate(self.program.ops):
            if self.heads.handle(index, op, self._read):
                continue
            if self.channels.handle(index, op):
                name = self.channels.at.get(index)
                if name is not None:
                    self.reads[name] = reads.Read(*self.channels.read[name])
                continue
            if index in self.dot_at:
                self._affine(self.dot_at[index], op)
            elif any(ref.id in self.streams for ref in op.inputs if isinstance(ref, Ref)):
                self._pass(op) if index in self.merged else self._inside(op)
            elif any(isinstance(o, Ref) and o.id in skipped for o in op.inputs):
                skipped.update(out.id for out in op.outputs)  # a kernel on its way to its product
            else:
                self._outside(op)
                self.channels.after(op)
        outputs = [self._read(o) for o in self.program.outputs]
        taps = self.taps | self.channels.taps | self.heads.taps
        results = self.results | self.channels.results | self.heads.results
        return jax.tree.unflatten(self.program.out_tree, outputs), taps, results

    def _read(self, operand: Operand) -> Array | None:
        return operand.value if isinstance(operand, Const) else self.env.get(operand.id)

    def _outside(self, op: Op) -> None:
        values = [self._read(o) for o in op.inputs]
        if any(v is None for v in values):
            return  # a parameter that went with its layer
        out = op.outputs[0]
        if out.id in self.axis and op.name in primitives.VIEWS:
            axis, name = self.axis[out.id], self.owner[out.id]
            traced = self.program.shape(out)[axis]
            width = self._width(name)
            self.env[out.id] = primitives.rerun(op, tuple(values), axis, width, traced)
            return
        for ref, value in zip(op.outputs, op.bind(*values), strict=True):
            self.env[ref.id] = value

    def _width(self, name: str) -> int:
        return units_of(self.parts[name])

    def _affine(self, name: str, op: Op) -> None:
        """Computes units, linear units and residual path of an affine map."""
        dot, part = self.analysis.dots[name], self.parts[name]
        source = self._features(dot, name)
        # main features and residual path, with the feature axis last
        main, carried = (None if f is None else jnp.moveaxis(f, dot.contract, -1) for f in source)
        out = op.outputs[0]
        inside = name in self.analysis.interiors
        both = main if carried is None else jnp.concatenate([main, carried], axis=-1)
        self.reads[name] = reads.dense(both)
        if name in self.mates:  # linear units and residual path go with the producer
            wide = self._width(name)
            product = _product(op, self.program, dot)
            units = self._units(name, part, main, carried, product) if wide else None
            self.streams[out.id] = _Stream(units, None, None).map(
                lambda value: jnp.moveaxis(value, -1, dot.axis)
            )
            return
        if inside:
            self.taps[name] = Tap(both.reshape(-1, both.shape[-1]), None, None)

        def native(value: Array) -> Array:
            return jnp.moveaxis(value, -1, dot.axis)

        if part.gone:
            self.streams[out.id] = _Stream(
                None, native(main), None if carried is None else native(carried)
            )
            return
        product = _product(op, self.program, dot)
        if part.down is not None:
            main, carried = product(both, part.down), None
            both = main
        units = None
        if self._width(name):
            units = self._units(name, part, main, carried, product)
        if not inside:
            self.env[out.id] = native(units)
            return
        linear = None if part.linear is None else product(both, part.linear)
        passed = both if self.flow[name].carry else None
        self.streams[out.id] = _Stream(units, linear, passed).map(native)
        self._tap_pre(name, out)

    def _units(
        self, name: str, part: Parts, main: Array, carried: Array | None,
        product: Callable[[Array, Array], Array],
    ) -> Array:  # fmt: skip
        """Computes ``v @ kernel``, with a bias only where the trace saw none."""
        affine = self.analysis.graph.affine(name)
        if part.kernel is None:
            width = part.bias.shape[0]
            value = jnp.zeros((*main.shape[:-1], width), self._dtype(name))
        elif affine.part.of > 1:  # one product for all maps that have the kernel together
            if affine.kernel not in self.shared:
                whole = parts_of(affine._replace(part=Part()), self.flat)
                self.shared[affine.kernel] = _sum(product, whole, main, carried)
            shared = self.shared[affine.kernel]
            value = affine.part.take(shared, shared.ndim - 1)
        else:
            value = _sum(product, part, main, carried)
        if affine.bias is None and part.bias is not None:
            value = value + part.bias.astype(value.dtype)
        return value if name in self.scaled else self._probed(name, value)

    def _probed(self, name: str, value: Array) -> Array:
        """Takes note of a result, and adds a probe to it; units are on the last axis."""
        probe = self.probes.get(name)
        if probe is not None:
            value = value + probe.reshape(value.shape)
        self.results[name] = value.reshape(-1, value.shape[-1])
        return value

    def _pass(self, op: Op) -> None:
        """Skips an operation that was multiplied into the kernel in front of it."""
        ids = [o.id for o in op.inputs if isinstance(o, Ref)]
        out = op.outputs[0]
        self.streams[out.id] = next(self.streams[i] for i in ids if i in self.streams)
        self._tap_pre(self.owner[out.id], out)

    def _dtype(self, name: str) -> Any:
        op = self.program.ops[self.analysis.dots[name].at]
        return self.program.avals[op.outputs[0].id].dtype

    def _features(self, dot: Dot, reader: str) -> tuple[Array, Array | None]:
        """Returns main features and residual path that an affine map reads."""
        if not isinstance(dot.operand, Ref) or dot.operand.id not in self.streams:
            channels = self.channels.features(dot.operand, dot.contract, reader)
            return self._read(dot.operand) if channels is None else channels, None
        stream, name = self.streams[dot.operand.id], self.owner[dot.operand.id]
        if stream.units is not None:
            post = jnp.moveaxis(stream.units, dot.contract, -1)
            self.taps[name] = self.taps[name]._replace(post=post.reshape(-1, post.shape[-1]))
        main = [f for f in (stream.units, stream.linear) if f is not None]
        if not main:  # a constant layer: nothing but the rows' shape is left to read
            shape = list(self.program.shape(dot.operand))
            shape[dot.contract] = 0
            return jnp.zeros(shape, self._dtype(name)), stream.carried
        return jnp.concatenate(main, axis=dot.contract) if len(main) > 1 else main[
            0
        ], stream.carried

    def _inside(self, op: Op) -> None:
        """Executes an operation inside a site: units through it, the rest around it."""
        out = op.outputs[0]
        axis, name = self.axis[out.id], self.owner[out.id]
        first = self._joined(op)
        traced = self.program.shape(out)[axis]

        def run(pick: Callable[[_Stream], Array | None], width: int) -> Array:
            values = [
                pick(self.streams[o.id])
                if isinstance(o, Ref) and o.id in self.streams
                else self._read(o)
                for o in op.inputs
            ]
            return primitives.rerun(op, tuple(values), axis, width, traced)

        units = None
        if first.units is not None:
            units = run(lambda s: s.units, first.units.shape[self._axis_of(op)])
        if op.name in primitives.ELEMENTWISE and op.name != "convert_element_type":
            stream = first._replace(units=units)
        else:
            axis_in = self._axis_of(op)
            linear, carried = first.linear, first.carried
            if linear is not None:
                linear = run(lambda s: s.linear, linear.shape[axis_in])
            if carried is not None:
                carried = run(lambda s: s.carried, carried.shape[axis_in])
            stream = _Stream(units, linear, carried)
        self.streams[out.id] = stream
        self._tap_pre(name, out)

    def _joined(self, op: Op) -> _Stream:
        """The operands' stream; where a gated layer's meet, with all that travels beside."""
        met = [self.streams[o.id] for o in op.inputs if isinstance(o, Ref) and o.id in self.streams]
        beside = (s for s in met if s.linear is not None or s.carried is not None)
        return next(beside, met[0])

    def _axis_of(self, op: Op) -> int:
        """Unit axis of the operation's operand inside the site."""
        ref = next(o for o in op.inputs if isinstance(o, Ref) and o.id in self.streams)
        return self.axis[ref.id]

    def _tap_pre(self, name: str, ref: Ref) -> None:
        interior, stream = self.analysis.interiors[name], self.streams[ref.id]
        if ref == interior.pre and stream.units is not None:
            pre = jnp.moveaxis(stream.units, self.axis[ref.id], -1)
            if name in self.scaled:
                pre = self._probed(name, pre)
                units = jnp.moveaxis(pre, -1, self.axis[ref.id])
                self.streams[ref.id] = stream._replace(units=units)
            self.taps[name] = self.taps[name]._replace(pre=pre.reshape(-1, pre.shape[-1]))


def _sum(
    product: Callable[[Array, Array], Array], part: Parts, main: Array, carried: Array | None
) -> Array:
    """What a map reads from the features and from the residual path."""
    value = product(main, part.kernel)
    return value if part.residual is None else value + product(carried, part.residual)


def _product(op: Op, program: Program, dot: Dot) -> Callable[[Array, Array], Array]:
    """Returns ``v @ W`` with the precision and the dtypes of the traced product."""
    dtypes = [jnp.result_type(o.value if isinstance(o, Const) else program.avals[o.id].dtype)
              for o in op.inputs]  # fmt: skip
    precision = op.params["precision"]

    def product(features: Array, kernel: Array) -> Array:
        kernel = jnp.asarray(kernel, dtypes[dot.side])
        return lax.dot_general(
            features.astype(dtypes[1 - dot.side]),
            kernel,
            (((features.ndim - 1,), (0,)), ((), ())),
            precision=precision,
            preferred_element_type=op.params["preferred_element_type"],
        )

    return product
