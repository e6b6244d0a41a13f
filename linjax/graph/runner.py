"""Executing a traced program on a folded parameter pytree.

Operations outside the sites run as traced, those inside run with what the pytree holds.
"""

from typing import Any

import jax

from linjax.graph.analysis import Analysis
from linjax.graph.dense_run import DenseRun, Tap
from linjax.graph.program import Const, Op, Operand, Ref
from linjax.graph.pytree import Flat

Array = Any


def execute(
    analysis: Analysis,
    flat: Flat,
    inputs: list[Array],
    probes: dict[str, Array] | None = None,
) -> tuple[Any, dict[str, Tap], dict[str, Array]]:
    """Runs a program on a (folded) flat pytree.

    Args:
      analysis: the program and its sites.
      flat: parameters by path.
      inputs: the input leaves.
      probes: arrays to add to affine maps' results (samples, outputs), by name; the
        derivative by a probe is the derivative by the pre-activation.

    Returns:
      The outputs, a tap for every site, and the affine results (samples, outputs) by name.
    """
    return _Execution(analysis, flat, probes or {}).run(inputs)


class _Execution:
    """One run: the environment of values, and what runs inside sites."""

    def __init__(self, analysis: Analysis, flat: Flat, probes: dict[str, Array]) -> None:
        self.program, self.analysis, self.flat = analysis.program, analysis, flat
        self.env: dict[int, Array] = {}
        self.dense = DenseRun(analysis, flat, self.env, probes)

    def run(self, inputs: list[Array]) -> tuple[Any, dict[str, Tap], dict[str, Array]]:
        """Executes all operations in order."""
        kernels = {dot.leaf for dot in self.analysis.dots.values()}
        skipped = {self.program.leaves[leaf].id for leaf in kernels}
        for ref, leaf in zip(self.program.leaves, self.analysis.leaves, strict=True):
            if leaf.path in self.flat:
                cut = self.program.cuts.get(ref.id)
                value = self.flat[leaf.path]
                self.env[ref.id] = value if cut is None else cut.part.take(value, cut.axis)
        self.env |= {ref.id: x for ref, x in zip(self.program.inputs, inputs, strict=True)}
        for index, op in enumerate(self.program.ops):
            if self.dense.handle(index, op):
                continue
            if any(isinstance(o, Ref) and o.id in skipped for o in op.inputs):
                skipped.update(out.id for out in op.outputs)  # a kernel on its way to its product
            else:
                self._outside(op)
        outputs = [self._read(o) for o in self.program.outputs]
        out = jax.tree.unflatten(self.program.out_tree, outputs)
        return out, self.dense.taps, self.dense.results

    def _read(self, operand: Operand) -> Array | None:
        return operand.value if isinstance(operand, Const) else self.env.get(operand.id)

    def _outside(self, op: Op) -> None:
        values = [self._read(o) for o in op.inputs]
        if any(v is None for v in values) or self.dense.view(op, values):
            return  # a parameter that went with its layer, or one of a site's units
        for ref, value in zip(op.outputs, op.bind(*values), strict=True):
            self.env[ref.id] = value
