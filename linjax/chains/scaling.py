"""Per-unit affine maps behind affine maps, such as batch norm in inference."""

from typing import NamedTuple

from linjax.chains import leaves
from linjax.chains.maps import Part, Rescaling, Scaling, Term
from linjax.chains.products import Map, Program
from linjax.chains.slopes import EVALUATED
from linjax.dims.rules import elementwise
from linjax.exact.casts import cast_keeps
from linjax.program.flat import Op, Operand, Ref


class Behind(NamedTuple):
    """A map whose pre-activation stands behind a per-unit affine map, and that."""

    map: Map
    scaling: Scaling


class _Spread(NamedTuple):
    """A value with one entry a unit that is computed from parameters.

    Attributes:
      terms: the computation in postfix order.
      leaves: numbers of its leaves.
      refs: all values on the way.
    """

    terms: tuple[Term, ...]
    leaves: frozenset[int]
    refs: frozenset[int]
    rounded: bool


def look_behind(program: Program, found: Map) -> Behind | None:
    """Follows a map's result through the per-unit affine map behind it, if there is one."""
    if found.part != Part() or len(found.results) > 1:
        return None
    value, result = found.results[0], None
    steps: list[Rescaling] = []
    spread = _Spread((), frozenset(), frozenset(), False)
    inside: set[int] = set()
    while (at := program.only(value)) is not None:
        step = _step(program, program.ops[at], value, found.axis)
        if step is None:
            break
        kind, own = step
        if kind and not steps and kind == "add" and own.leaves and len(own.terms) == 1:
            return None  # a bias that is used elsewhere, too
        value = program.ops[at].outputs[0]
        inside |= {at}
        steps += [Rescaling(kind, own.terms)] if kind else []
        spread = own._replace(leaves=spread.leaves | own.leaves, refs=spread.refs | own.refs)
        if own.leaves and _only_here(program, spread.refs, inside):
            paths = tuple(program.network.paths[leaf] for leaf in sorted(spread.leaves))
            result = Behind(found._replace(results=(value,)), Scaling(tuple(steps), paths))
    return result


def _only_here(program: Program, refs: frozenset[int], inside: set[int]) -> bool:
    """Whether values are read by each other and by the given operations only."""
    makers = program.layout.makers
    own = inside | {program.places[makers[ref].outputs[0].id] for ref in refs if ref in makers}
    return all(set(program.readers.get(ref, ())) <= own for ref in refs)


def _step(program: Program, op: Op, value: Ref, axis: int) -> tuple[str, _Spread] | None:
    """One operation of a per-unit affine map, no kind where it does nothing; its other operand."""
    avals = program.layout.program.avals
    nothing = _Spread((), frozenset(), frozenset(), False)
    if op.name == "convert_element_type":
        return ("", nothing) if avals[op.outputs[0].id].dtype == avals[value.id].dtype else None
    if op.name not in ("add", "sub", "mul", "div") or list(op.inputs).count(value) != 1:
        return None
    other, kind = op.inputs[1], op.name
    if op.inputs[1] == value:
        if kind == "div":
            return None
        other, kind = op.inputs[0], "rsub" if kind == "sub" else kind
    width = program.shape(value)[axis]
    own = _spread(program, other, axis, width)
    return None if own is None else (kind, own)


def _spread(program: Program, operand: Operand, axis: int, width: int) -> _Spread | None:
    """How an operand with one entry a unit along an axis is computed, None if it is none."""
    number = leaves.constant(program.layout, operand)
    if number is not None:
        return _Spread((Term("constant", value=float(number)),), frozenset(), frozenset(), False)
    if not isinstance(operand, Ref):
        return None
    view = program.seen(operand)
    if view is not None:
        run = view.along(axis)
        long = [n for n, size in enumerate(program.leaf_shape(view.leaf)) if size != 1]
        if run is None or run[1] != range(width) or not set(long) <= {run[0]}:
            return None
        own = _Spread((Term("leaf", program.network.paths[view.leaf]),), frozenset({view.leaf}),
                      frozenset(_back(program, operand)), view.rounded)  # fmt: skip
        return own
    op = program.layout.makers.get(operand.id)
    if op is None or len(op.outputs) != 1:
        return None
    if op.name in leaves.LAYOUT or op.name in leaves.SAME:
        before = _before(program, op, axis)
        source = None if before is None else _spread(program, op.inputs[0], before, width)
        return None if source is None else source._replace(refs=source.refs | {operand.id})
    parts = [_spread(program, o, axis, width) for o in op.inputs]
    if op.name not in elementwise.RULES or None in parts:
        return None
    known = [part for part in parts if part is not None]
    name = "square" if op.name == "integer_pow" and op.params["y"] == 2 else op.name
    terms, rounded = [t for part in known for t in part.terms], any(p.rounded for p in known)
    if name == "convert_element_type":
        dtypes = program.layout.program.avals[op.inputs[0].id].dtype, op.params["new_dtype"]  # type: ignore[union-attr]
        kept = cast_keeps(*dtypes)
        if kept == "changes" or (rounded and dtypes[0] != dtypes[1]):
            return None
        rounded |= kept == "rounds"
    elif name in EVALUATED:
        terms.append(Term(name))
    else:
        return None
    return _Spread(
        tuple(terms), frozenset().union(*(p.leaves for p in known)),
        frozenset({operand.id}).union(*(p.refs for p in known)), rounded,
    )  # fmt: skip


def _back(program: Program, ref: Ref) -> list[int]:
    """Numbers of a view and of all that it is a view of."""
    found, operand = [ref.id], ref
    while operand.id in program.layout.makers:
        operand = program.layout.makers[operand.id].inputs[0]  # type: ignore[assignment]
        found.append(operand.id)
    return found


def _before(program: Program, op: Op, axis: int) -> int | None:
    """Where the axis of the units was in front of a layout operation; all others have one entry."""
    before = program.shape(op.inputs[0])
    if op.name in leaves.SAME:
        return axis
    if op.name == "transpose":
        return int(op.params["permutation"][axis])
    own = range(len(before))
    return next((n for n in own if leaves.follow(program.layout, op, n) == axis), None)
