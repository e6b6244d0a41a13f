"""Running dense sites on a folded pytree: what takes the way through them, and around them.

Inside a site operations run with as many units as the pytree holds, beside the linear units and
the residual path, which take the same way but skip the activation.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from linjax.graph import primitives
from linjax.graph.analysis import Analysis, Dot
from linjax.graph.flow import Flow, all_flows
from linjax.graph.maps import Part, Path
from linjax.graph.parts import Parts, parts_of, units_of
from linjax.graph.program import Const, Op, Operand, Program, Ref
from linjax.graph.pytree import Flat

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


class DenseRun:
    """The streams inside dense sites, in one run of a program.

    Attributes:
      taps: what passes each site.
      results: affine maps' results (samples, outputs), by name.
    """

    def __init__(
        self, analysis: Analysis, flat: Flat, env: dict[int, Array], probes: dict[str, Array]
    ) -> None:
        program, graph = analysis.program, analysis.graph
        self.program, self.analysis, self.flat, self.probes = program, analysis, flat, probes
        self.env = env
        self.parts: dict[str, Parts] = {}
        self.flow: dict[str, Flow] = {}
        known = all_flows(graph, flat)
        for chain in graph.chains:
            names = [name for group in chain.layers for name in group]
            for name, f, part in zip(names, *known[names[0]], strict=True):
                self.flow[name], self.parts[name] = f, part
        self.sums = {name: site for site in graph.sites if site.terms for name in site.maps}
        self.gone = {s.name for s in self.sums.values() if self.parts[s.name].gone}
        self.parts |= {name: parts_of(graph.affine(name), flat) for name in self.sums}
        self.terms: dict[str, Array] = {}
        self.mates = {mate for site in graph.sites for mate in site.mates}
        for affine in graph.affines:
            self.parts.setdefault(affine.name, parts_of(affine, flat))
        self.dot_at = {dot.at: name for name, dot in analysis.dots.items()}
        self.axis: dict[int, int] = {}
        self.owner: dict[int, str] = {}
        for name, interior in analysis.interiors.items():
            self.axis |= interior.axes
            self.owner |= dict.fromkeys(interior.axes, name)
        self.streams: dict[int, _Stream] = {}
        self.taps: dict[str, Tap] = {}
        self.results: dict[str, Array] = {}
        self.shared: dict[Path, Array] = {}
        self.scaled = analysis.scaled
        self.merged = {
            index
            for name, behind in self.scaled.items()
            if graph.affine(name).scaling.leaves[0] not in flat
            for index in behind.ops
        }

    def handle(self, index: int, op: Op) -> bool:
        """Executes an operation if it is an affine map, or inside a site."""
        if index in self.dot_at:
            self._affine(self.dot_at[index], op)
        elif any(ref.id in self.streams for ref in op.inputs if isinstance(ref, Ref)):
            inside = self._pass if index in self.merged else self._inside
            (self._join if index in self.analysis.joins else inside)(op)
        else:
            return False
        return True

    def view(self, op: Op, values: list[Array]) -> bool:
        """Executes an operation on a per-unit parameter, with as many units as there are."""
        out = op.outputs[0]
        if out.id not in self.axis or op.name not in primitives.VIEWS:
            return False
        axis = self.axis[out.id]
        traced, width = self.program.shape(out)[axis], self._width(self.owner[out.id])
        self.env[out.id] = primitives.rerun(op, tuple(values), axis, width, traced)
        return True

    def _read(self, operand: Operand) -> Array | None:
        return operand.value if isinstance(operand, Const) else self.env.get(operand.id)

    def _width(self, name: str) -> int:
        return units_of(self.parts[name])

    def _affine(self, name: str, op: Op) -> None:
        """Computes units, linear units and residual path of an affine map."""
        dot, part = self.analysis.dots[name], self.parts[name]
        source = self._features(dot)
        # main features and residual path, with the feature axis last
        main, carried = (None if f is None else jnp.moveaxis(f, dot.contract, -1) for f in source)
        out = op.outputs[0]
        inside = name in self.analysis.interiors
        both = main if carried is None else jnp.concatenate([main, carried], axis=-1)
        product = _product(op, self.program, dot)

        def native(value: Array) -> Array:
            return jnp.moveaxis(value, -1, dot.axis)

        if name in self.mates:  # linear units and residual path go with the producer
            wide = self._width(name)
            units = self._units(name, part, main, carried, product) if wide else None
            self.streams[out.id] = _Stream(units, None, None).map(native)
            return
        if name in self.sums:
            whole = part.kernel is not None or part.linear is not None
            self.terms[name] = both if whole else both[..., :0]  # else it reads nothing
            stream = self._term(name, part, product, main, carried)
            self.streams[out.id] = stream.map(native)
            return
        if inside:
            self.taps[name] = Tap(_rows(both), None, None)
        if part.gone:
            self.streams[out.id] = _Stream(None, main, carried).map(native)
            return
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
        return value if self._later(name) else self._probed(name, value)

    def _term(
        self, name: str, part: Parts, product: Callable[[Array, Array], Array],
        main: Array, carried: Array | None,
    ) -> _Stream:  # fmt: skip
        """Computes one map's part of a sum; what it reads travels on from there."""
        if part.gone or self.sums[name].name in self.gone:
            return _Stream(None, None, None)
        linear = None if part.linear is None else product(self.terms[name], part.linear)
        wide = part.kernel is not None or part.bias is not None
        units = self._units(name, part, main, carried, product) if wide else None
        return _Stream(units, linear, None)

    def _join(self, op: Op) -> None:
        """Adds the parts of a sum, and lines up what its maps read."""
        out = op.outputs[0]
        name = self.owner[out.id]
        met = [self.streams[o.id] for o in op.inputs if isinstance(o, Ref) and o.id in self.streams]

        def added(parts: list[Array | None]) -> Array | None:
            values = [part for part in parts if part is not None]
            return op.bind(*values)[0] if len(values) == 2 else next(iter(values), None)

        site = self.sums[name]
        known = [n for n in (site.producer, *site.terms) if n in self.terms]
        source = jnp.concatenate([self.terms[n] for n in known], axis=-1)
        self.taps[name] = Tap(_rows(source), None, None)
        passed = jnp.moveaxis(source, -1, self.axis[out.id])
        units, linear = added([s.units for s in met]), added([s.linear for s in met])
        if name in self.gone:
            self.streams[out.id] = _Stream(None, passed, None)
        else:
            carried = passed if self.flow[name].carry else None
            self.streams[out.id] = _Stream(units, linear, carried)
        self._tap_pre(name, out)

    def _later(self, name: str) -> bool:
        """Whether a result is whole only behind its scaling, or where the terms of a sum meet."""
        return name in self.scaled or (name in self.sums and self.sums[name].name == name)

    def _probed(self, name: str, value: Array) -> Array:
        """Takes note of a result, and adds a probe to it; units are on the last axis."""
        probe = self.probes.get(name)
        if probe is not None:
            value = value + probe.reshape(value.shape)
        self.results[name] = _rows(value)
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

    def _features(self, dot: Dot) -> tuple[Array, Array | None]:
        """Returns main features and residual path that an affine map reads."""
        if not isinstance(dot.operand, Ref) or dot.operand.id not in self.streams:
            return self._read(dot.operand), None
        stream, name = self.streams[dot.operand.id], self.owner[dot.operand.id]
        if stream.units is not None:
            post = jnp.moveaxis(stream.units, dot.contract, -1)
            self.taps[name] = self.taps[name]._replace(post=_rows(post))
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
            if any(value is None for value in values):
                return next(value for value in values if value is not None)  # a bias that is gone
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
            if self._later(name):
                pre = self._probed(name, pre)
                units = jnp.moveaxis(pre, -1, self.axis[ref.id])
                self.streams[ref.id] = stream._replace(units=units)
            self.taps[name] = self.taps[name]._replace(pre=_rows(pre))


def _rows(value: Array) -> Array:
    """All axes but the last as one; the last may have no entry left."""
    return value.reshape(math.prod(value.shape[:-1]), value.shape[-1])


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
