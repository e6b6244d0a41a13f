"""Executing a traced program on a folded parameter pytree.

Operations outside the sites run as traced; those inside dense sites, between channels and between
attention's values run with what the pytree holds.
"""

from typing import Any

import jax
import jax.numpy as jnp

from linjax.graph import reads
from linjax.graph.analysis import Analysis
from linjax.graph.channels import shapes
from linjax.graph.channels.stream import ChannelRun
from linjax.graph.dense_run import DenseRun
from linjax.graph.heads_run import HeadsRun
from linjax.graph.program import Const, Op, Operand, Ref
from linjax.graph.pytree import Flat

Array = Any


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
        if name in run.dense.reads and ref.id in run.env:
            beside = jnp.transpose(run.env[ref.id], axes)
            run.dense.reads[name] = run.dense.reads[name]._replace(beside=beside)
    return run.dense.reads


class _Execution:
    """One run: the environment of values, and what runs inside sites."""

    def __init__(
        self, analysis: Analysis, flat: Flat, probes: dict[str, Array], through: bool
    ) -> None:
        program, graph = analysis.program, analysis.graph
        self.program, self.analysis, self.flat = program, analysis, flat
        self.env: dict[int, Array] = {}
        shapes.check(graph, flat)
        self.channels = ChannelRun(
            program, graph, analysis.channels, flat, self.env, probes, through
        )
        self.heads = HeadsRun(program, analysis.heads, flat, self.env, probes)
        self.dense = DenseRun(analysis, flat, self.env, probes, self.channels)

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
                    self.dense.reads[name] = reads.Read(*self.channels.read[name])
                continue
            if self.dense.handle(index, op):
                continue
            if any(isinstance(o, Ref) and o.id in skipped for o in op.inputs):
                skipped.update(out.id for out in op.outputs)  # a kernel on its way to its product
            else:
                self._outside(op)
                self.channels.after(op)
        outputs = [self._read(o) for o in self.program.outputs]
        taps = self.dense.taps | self.channels.taps | self.heads.taps
        results = self.dense.results | self.channels.results | self.heads.results
        return jax.tree.unflatten(self.program.out_tree, outputs), taps, results

    def _read(self, operand: Operand) -> Array | None:
        return operand.value if isinstance(operand, Const) else self.env.get(operand.id)

    def _outside(self, op: Op) -> None:
        values = [self._read(o) for o in op.inputs]
        if any(v is None for v in values) or self.dense.view(op, values):
            return  # a parameter that went with its layer, or one of a site's units
        for ref, value in zip(op.outputs, op.bind(*values), strict=True):
            self.env[ref.id] = value
