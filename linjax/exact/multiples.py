"""Whether coordinates that start as multiples of one another stay so, wherever they are read.

A program is read once for a dimension. Wherever a product makes the dimension, its coordinates are
affine, ``z = m ⊙ (v W) + c``, while parameters are added to and multiplied with them; behind that
a value is *in proportion* if an entry of coordinate t is ρ_t times that of its representative, at
every place and for all inputs. Sums, largest values, whatever is linear and the same for each
coordinate, and functions of one number with two slopes keep the proportion. All else keeps equal
coordinates equal, as long as it acts coordinate by coordinate with equal parameters.
"""

from typing import NamedTuple

from linjax.dims.layout import Held, Layout, number
from linjax.dims.rules import RULES, elementwise
from linjax.dims.values import Role, Source
from linjax.exact.casts import cast_keeps
from linjax.exact.coordinates import VIEWS, Coordinates
from linjax.exact.scalar import describe
from linjax.program.flat import Const, Op, Operand, Ref

_SUMS = frozenset({"add", "sub", "add_any"})
_CASTS = frozenset({"convert_element_type", "copy", "copy_p", "name", "stop_gradient", "pvary"})
_JOINS = frozenset({"concatenate", "stack", "pad", "dynamic_update_slice"})
_LINEAR = VIEWS | {
    "reduce_sum", "cumsum", "reduce_window_sum", "reduce_max", "reduce_min", "reduce_window_max",
    "reduce_window_min", "cummax", "cummin", "gather", "dynamic_slice", "tile", "rev",
    "dot_general", "conv_general_dilated",
}  # fmt: skip
_REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"})


class Step(NamedTuple):
    """A parameter that meets affine coordinates.

    Attributes:
      name: ``"add"``, ``"sub"``, ``"mul"`` or ``"div"``.
      turned: whether the coordinates are the second operand.
      leaf: number of the leaf that the parameter is a view of, None if it is computed.
      value: its number in the program.
    """

    name: str
    turned: bool
    leaf: int | None
    value: int


class Affine(NamedTuple):
    """Coordinates as a leaf makes them, and the parameters that meet them then."""

    leaf: int
    steps: tuple[Step, ...] = ()


class Proof(NamedTuple):
    """What has to hold of coordinates so that one can stand for others.

    Attributes:
      proportion: whether multiples will do; else they have to be equal in all of their leaves
        (readers apart) and constants.
      affine: what has to be multiples.
      equal: leaves that have to be equal in any case.
    """

    proportion: bool
    affine: tuple[Affine, ...]
    equal: frozenset[int]


def prove(layout: Layout, dim: int, beside: tuple[int, ...]) -> Proof | None:
    """Returns what has to hold of a dimension's coordinates, None if nothing is known to do.

    Args:
      layout: the network.
      dim: the dimension.
      beside: dimensions that it is repeated along.
    """
    walk = _Walk(layout, dim, beside)
    try:
        for op in layout.program.all_ops():
            walk.step(op)
    except _Unfit:
        return None
    if not walk.made or walk.readers & walk.met:
        return None  # a leaf that makes and reads can't be narrowed as either
    return Proof(walk.proportion, tuple(dict.fromkeys(walk.affine)), frozenset(walk.equal))


class _Unfit(Exception):
    """The dimension is used in a way that isn't known to go by coordinate."""


class _State(NamedTuple):
    """A value: what it is a function of, entry by entry; and its affine form, if it has one."""

    root: int
    affine: Affine | None = None
    rounded: bool = False


class _Walk:
    """Reads a program for one dimension."""

    def __init__(self, layout: Layout, dim: int, beside: tuple[int, ...]) -> None:
        self.layout, self.dim = layout, dim
        self.of = Coordinates(layout, dim, frozenset(beside))
        self.states: dict[int, _State] = {}
        self.regions: dict[int, list[Op]] = {}
        self.beside: dict[int, set[int]] = {}  # leaves that meet a region's values
        self.deps: dict[int, frozenset[int]] = {}
        self.roles: dict[int, set[Role]] = {}
        for mark in layout.marks.get(dim, ()):
            self.roles.setdefault(mark.op, set()).add(mark.role)
        self.proportion = True
        self.made = False
        self.affine: list[Affine] = []
        self.equal: set[int] = set()
        self.met: set[int] = set()  # leaves that data meet otherwise than in being read
        self.readers: set[int] = set()

    def step(self, op: Op) -> None:
        """Takes in one operation."""
        ins = [self.layout.operand(op, place) for place in range(len(op.inputs))]
        outs = [self.layout.values[ref.id] for ref in op.outputs]
        if any(sum(self.dim in s.dims() for s in held.spans) > 1 for held in (*ins, *outs)):
            raise _Unfit
        if not any(self.dim in held.dims() for held in ins):
            return
        data = [place for place, held in enumerate(ins) if held.source is Source.DATA]
        along = [place for place in data if self.of.varies(ins[place])]
        if any(not self.known(op.inputs[place]) for place in along):
            raise _Unfit
        if op.scan is not None:
            if along or any(self.dim in held.dims() for held in outs):
                raise _Unfit
        elif not data:
            self.parameters(op, ins, outs)
        else:
            self.meeting(op, ins, along)

    def known(self, operand: Operand) -> bool:
        """Whether a value's coordinates have been followed."""
        return isinstance(operand, Ref) and operand.id in self.states

    def leaves(self, op: Op, place: int) -> frozenset[int]:
        """The leaves with the dimension that a parameter comes from."""
        operand, held = op.inputs[place], self.layout.operand(op, place)
        if isinstance(operand, Const) or self.dim not in held.dims():
            return frozenset()
        if held.leaf is not None:
            return frozenset({held.leaf})
        if operand.id not in self.deps:
            if held.source is Source.CONSTANT and not self.of.varies(held):
                return frozenset()
            raise _Unfit
        return self.deps[operand.id]

    def parameters(self, op: Op, ins: list[Held], outs: list[Held]) -> None:
        """An operation on parameters: by coordinate, or not known."""
        named = op.name in elementwise.RULES or op.name in VIEWS | _CASTS | _REDUCTIONS
        if not (named or op.name == "concatenate"):
            raise _Unfit
        gone = not any(self.dim in held.dims() for held in outs)
        if gone and op.name not in ("slice", "split"):
            raise _Unfit
        own = frozenset[int]().union(*(self.leaves(op, place) for place in range(len(ins))))
        self.deps.update({ref.id: own for ref in op.outputs})

    def meeting(self, op: Op, ins: list[Held], along: list[int]) -> None:
        """An operation on data."""
        roles = self.roles.get(number(op), set())
        if roles & {Role.SUMMED, Role.PAIRED, Role.BESIDE} or op.name not in RULES:
            raise _Unfit
        own = [k for k, held in enumerate(ins) if k not in along and self.dim in held.dims()]
        if Role.READ in roles:
            leaves = [self.leaves(op, k) for k in own]
            if len(along) != 1 or len(leaves) != 1 or len(leaves[0]) != 1:
                raise _Unfit
            self.readers |= leaves[0]
            self.close(op, along)
            return
        for place in own:
            if ins[place].source is not Source.DATA:
                self.met |= self.leaves(op, place)
        if Role.MADE in roles:
            self.maker(op, ins, along, own)
        elif op.name in elementwise.RULES:
            self.elementwise(op, ins, along, own)
        else:
            self.other(op, ins, along, own)

    def fresh(self, op: Op, affine: Affine | None = None, rounded: bool = False) -> None:
        """Begins anew with an operation's results."""
        for ref in op.outputs:
            if self.of.varies(self.layout.values[ref.id]):
                self.states[ref.id] = _State(ref.id, affine, rounded)

    def maker(self, op: Op, ins: list[Held], along: list[int], own: list[int]) -> None:
        """A product with a leaf, or a look-up in one; or with what is computed by coordinate."""
        if along or len(own) != 1:
            raise _Unfit
        self.made, leaf = True, ins[own[0]].leaf
        if leaf is None:
            computed = self.leaves(op, own[0])
            if not computed:
                raise _Unfit
            self.affine += map(Affine, sorted(computed))
            self.proportion = False
            return self.fresh(op)
        if self.of.whole(op, ins[own[0]]):
            return self.fresh(op, Affine(leaf))
        self.affine.append(Affine(leaf))
        return self.fresh(op)

    def elementwise(self, op: Op, ins: list[Held], along: list[int], own: list[int]) -> None:
        """An operation entry by entry: a step, a part of a function, or a sum of several."""
        if not along:  # data that are the same for all coordinates meet a parameter
            leaf = ins[own[0]].leaf if len(own) == 1 else None
            if op.name == "mul" and leaf is not None and self.of.whole(op, ins[own[0]]):
                self.made = True
                return self.fresh(op, Affine(leaf))
            self.proportion = False
            return self.fresh(op)
        before = [self.states[self.ref(op, place)] for place in along]
        affine, along_id = self.stepped(op, ins, along, own), self.ref(op, along[0])
        rounded = any(state.rounded for state in before)
        if op.name == "convert_element_type" and affine is not None:
            dtypes = [self.layout.program.avals[i].dtype for i in (along_id, number(op))]
            kept = cast_keeps(*dtypes)
            self.proportion &= not (rounded and dtypes[0] != dtypes[1]) and kept != "changes"
            return self.fresh(op, affine, rounded or kept == "rounds")
        if affine is not None and op.name in _SUMS:
            return self.fresh(op, affine, rounded)
        others = [o for place, o in enumerate(op.inputs) if place not in along]
        if len({s.root for s in before}) == 1 and all(
            self.of.outside(o) is not None for o in others
        ):
            if rounded and op.name == "convert_element_type":
                self.proportion = False  # what rounding has taken isn't there again
            root = before[0].root
            self.regions.setdefault(root, []).append(op)
            for place in own:
                self.beside.setdefault(root, set()).update(self.leaves(op, place))
            self.states[op.outputs[0].id] = _State(root, affine, rounded)
            return None
        self.close(op, along)
        if not self.keeps(op, along):
            self.proportion = False
        for place in own:
            if ins[place].source is not Source.DATA:
                self.equal |= self.leaves(op, place)
            if self.of.varies(ins[place]) and ins[place].source is Source.CONSTANT:
                self.proportion = False
        return self.fresh(op, rounded=rounded or op.name == "convert_element_type")

    def keeps(self, op: Op, along: list[int]) -> bool:
        """Whether an operation on values in proportion, and others, gives such a value."""
        rest = [place for place in range(len(op.inputs)) if place not in along]
        if op.name in _SUMS | {"max", "min"}:
            return not rest
        if op.name == "mul":
            return len(along) == 1
        if op.name == "div":
            return along == [0]
        if op.name == "select_n":
            return 0 in rest and all(self.of.zero(op.inputs[place]) for place in rest[1:])
        return False

    def stepped(self, op: Op, ins: list[Held], along: list[int], own: list[int]) -> Affine | None:
        """The affine form of a result."""
        state = self.states[self.ref(op, along[0])]
        if state.affine is None:
            return None
        if op.name in _CASTS and len(op.inputs) == 1:
            return state.affine
        if op.name not in _SUMS | {"mul", "div"} or len(along) != 1 or len(own) != 1:
            return None
        operand, held = op.inputs[own[0]], ins[own[0]]
        if not isinstance(operand, Ref) or held.source is not Source.PARAMETER:
            return None
        leaf = held.leaf if held.leaf is not None and self.of.whole(op, held) else None
        looped, turned = bool(self.layout.steps[number(op)]), along == [1]
        if not self.of.alone(held) or (looped and leaf is None) or (turned and op.name == "div"):
            return None
        name = "add" if op.name == "add_any" else op.name
        step = Step(name, turned, leaf, operand.id)
        return state.affine._replace(steps=(*state.affine.steps, step))

    def other(self, op: Op, ins: list[Held], along: list[int], own: list[int]) -> None:
        """An operation that lays entries out, sums, compares or joins them."""
        if op.name in _JOINS:
            return self.join(op, ins, along, own)
        first = along[:1]
        affine = self.states[self.ref(op, first[0])].affine if first else None
        rounded = any(self.states[self.ref(op, place)].rounded for place in along)
        if affine is not None and op.name in VIEWS:
            return self.fresh(op, affine, rounded)
        self.close(op, along)
        if op.name == "conv_general_dilated" and Role.FILTERED not in self.roles[number(op)]:
            batch = op.params["dimension_numbers"].lhs_spec[0]
            if not along or self.dim not in ins[0].spans[batch].dims():
                raise _Unfit
        linear = op.name in _LINEAR and len(along) == 1 and not own
        if not linear or (along != [0] and op.name != "dot_general"):
            self.proportion = False
        return self.fresh(op, rounded=rounded)

    def join(self, op: Op, ins: list[Held], along: list[int], own: list[int]) -> None:
        """Values side by side: all of them in proportion, or nothing."""
        self.close(op, along)
        for place in own:
            leaf, parameter = ins[place].leaf, ins[place].source is Source.PARAMETER
            if parameter and leaf is not None:
                self.affine.append(Affine(leaf))
            elif not self.of.zero(op.inputs[place]):
                self.proportion = False
        if op.name == "pad" and not self.of.zero(op.inputs[1]):
            self.proportion = False
        if any(place > 1 for place in along) and op.name == "dynamic_update_slice":
            raise _Unfit
        self.fresh(op, rounded=any(self.states[self.ref(op, p)].rounded for p in along))

    def close(self, op: Op, places: list[int]) -> None:
        """Asks for what brings operands into proportion."""
        for place in places:
            self._close(self.ref(op, place))

    def _close(self, ref: int) -> None:
        state = self.states[ref]
        if state.affine is not None:
            self.affine.append(state.affine)
        elif state.root != ref:
            self._close(state.root)
            found = describe(
                self.layout.program, self.regions[state.root], Ref(state.root), self.of.outside,
                Ref(ref),
            )  # fmt: skip
            self.proportion &= found.two_slopes is not None
            self.equal |= self.beside.get(state.root, set())
            self.states[ref] = state._replace(rounded=state.rounded or found.rounded)

    def ref(self, op: Op, place: int) -> int:
        """The number of an operand."""
        operand = op.inputs[place]
        assert isinstance(operand, Ref)
        return operand.id
