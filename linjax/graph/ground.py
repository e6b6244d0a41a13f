"""What growing sites starts from: affine maps with their biases, scalings and sums."""

import functools
from typing import NamedTuple

from linjax.graph import gates, primitives
from linjax.graph.dots import Dot
from linjax.graph.maps import Part
from linjax.graph.program import Op, Program, Ref
from linjax.graph.scaling import Behind, Context, look_behind
from linjax.graph.summed import Start, find_sums
from linjax.graph.views import Views, unit_leaf


class Ground(NamedTuple):
    """The program and what has been found in it, for growing sites.

    Attributes:
      program: the program.
      views: its views of parameters.
      dots: its affine maps' products by name.
      by_index: their names by the index of the operation.
      readers: indices of the operations that read each value.
      biases: by name: bias leaf, unit axes up to the pre-activation, pre-activation.
      made: the operation that makes each value.
      starts: names by the number of their pre-activation.
      behind: the per-unit affine map between bias and pre-activation, by name, where there is
        one.
      terms: names of the other maps of a sum, by that of its first.
      joins: indices of the additions that make sums.
    """

    program: Program
    views: Views
    dots: dict[str, Dot]
    by_index: dict[int, str]
    readers: dict[int, list[int]]
    biases: dict[str, Start]
    made: dict[int, Op]
    starts: dict[int, str]
    behind: dict[str, Behind]
    terms: dict[str, tuple[str, ...]]
    joins: frozenset[int]

    @classmethod
    def of(cls, context: Context, dots: dict[str, Dot]) -> "Ground":
        """Looks up biases, readers and makers once, and sums of maps."""
        program, views, readers = context.program, context.views, context.readers
        made = program.makers()
        biases = {name: _bias_of(context, dot) for name, dot in dots.items()}
        starts = {name: (pre, axes[pre.id]) for name, (_, axes, pre) in biases.items()}
        scaled = {name: look_behind(context, *start) for name, start in starts.items()}
        behind = {name: found for name, found in scaled.items() if found is not None}
        for name, found in behind.items():
            leaf, axes, start = biases[name]
            axis = axes[start.id]
            values = {program.ops[index].outputs[0].id: axis for index in found.ops}
            biases[name] = leaf, axes | values, found.pre
        left = frozenset(n for n, dot in dots.items() if program.part(dot.leaf) != Part())
        left |= behind.keys()
        follow = functools.partial(_bias, program, views, readers, Part())
        same = functools.partial(gates.same_value, made)
        biases, terms, joins = find_sums(program, dots, readers, biases, left, same, follow)
        rest = {name for others in terms.values() for name in others}
        names = {pre.id: name for name, (_, _, pre) in biases.items() if name not in rest}
        by_index = {dot.at: name for name, dot in dots.items()}
        return cls(
            program, views, dots, by_index, readers, biases, made, names, behind, terms, joins
        )


def _bias_of(context: Context, dot: Dot) -> Start:
    """Follows a product to its bias."""
    program, views, readers = context.program, context.views, context.readers
    product = program.ops[dot.at].outputs[0]
    return _bias(program, views, readers, program.part(dot.leaf), product, dot.axis)


def _bias(
    program: Program, views: Views, readers: dict[int, list[int]], part: Part, start: Ref, axis: int
) -> Start:
    """Follows a result to its bias, cut apart as its kernel is."""
    value, axes = start, {start.id: axis}
    while len(readers.get(value.id, ())) == 1 and readers[value.id][0] >= 0:
        op = program.ops[readers[value.id][0]]
        if op.name == "add" and len(set(op.inputs)) == 2:
            other = next(o for o in op.inputs if o != value)
            leaf = unit_leaf(program, views, other, axis)
            same = leaf is not None and program.part(leaf) == part
            if leaf is not None and same and views.uses[leaf] == 1:
                axes[op.outputs[0].id] = axis
                return leaf, axes, op.outputs[0]
            break
        moved = primitives.follow(op, program, axis)
        if moved is None:
            break
        value, axis = op.outputs[0], moved
        axes[value.id] = axis
    return None, {start.id: axes[start.id]}, start
