"""What growing sites starts from: affine maps with their biases, scalings and sums."""

import functools
from typing import NamedTuple

from linjax.graph import gates, primitives
from linjax.graph.channels.convolutions import Behind, Context, look_behind
from linjax.graph.dots import Dot
from linjax.graph.maps import Part
from linjax.graph.program import Op, Program, Ref
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
    def of(cls, context: Context, dots: dict[str, Dot], sums: bool) -> "Ground":
        """Looks up biases, readers and makers once, and sums of maps where these may fold."""
        program, views, readers = context.program, context.views, context.readers
        made = program.makers()
        biases = {name: _bias_of(context, dot) for name, dot in dots.items()}
        behind = {name: _scaling(context, *biases[name][1:]) for name in dots}
        behind = {name: found for name, found in behind.items() if found is not None}
        for name, found in behind.items():
            leaf, axes, start = biases[name]
            axis = axes[start.id]
            values = {program.ops[index].outputs[0].id: axis for index in found.ops}
            biases[name] = leaf, axes | values, found.pre
        left = frozenset(n for n, dot in dots.items() if program.part(dot.leaf) != Part())
        left |= behind.keys() if sums else dots.keys()
        follow = functools.partial(_bias, program, views, readers, Part())
        same = functools.partial(gates.same_value, made)
        biases, terms, joins = find_sums(program, dots, readers, biases, left, same, follow)
        rest = {name for others in terms.values() for name in others}
        starts = {pre.id: name for name, (_, _, pre) in biases.items() if name not in rest}
        by_index = {dot.at: name for name, dot in dots.items()}
        return cls(
            program, views, dots, by_index, readers, biases, made, starts, behind, terms, joins
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


def _scaling(context: Context, axes: dict[int, int], start: Ref) -> Behind | None:
    """The per-unit affine map behind a bias, if there is one."""
    axis = axes[start.id]
    found = look_behind(context, start, axis, context.program.shape(start)[axis])
    return found if found.scaling is not None and found.bias is None else None
