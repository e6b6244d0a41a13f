"""Kernels that a function computes of its parameters alone: weights that are standardised, rounded
by a scale of their own, normed, adapted by low ranks.

No coordinate of theirs can be taken away before they have been computed. So a network takes them
as leaves of their own, beside the leaves that stay: a *computed leaf* ``W_computed`` stands for the
leaves that serve nothing else, ``W`` the largest of them. A pytree with these has another form than
the one that was traced; it is computed when it is given to a network, by the function's operations,
and a fold returns it. Kernels that are computed coordinate by coordinate (cast, clipped, masked)
stay what they are.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from linjax.dims.layout import LAYOUT, SAME
from linjax.dims.rules import elementwise, joining, layout
from linjax.errors import StructureError
from linjax.program.flat import Op, Operand, Program, Ref, needed
from linjax.program.pytree import Flat, Leaf, Path, beside, cast, is_floating, join

Array = Any

_SHOWN = LAYOUT | SAME | {"convert_element_type", "expand_dims"}
"""Operations that show a value otherwise: what is computed is computed before them."""
_CUT = frozenset({"slice", "pad"})
"""Operations whose results may have sizes that inputs have: nothing of these can be kept."""
_BY_COORDINATE = frozenset({*elementwise.RULES, *layout.RULES, *joining.RULES}) - _CUT
"""Operations that coordinates can be followed through."""
_PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})


@dataclasses.dataclass(frozen=True, eq=False)
class Computed:
    """What a network's computed leaves are, and how they are computed.

    Attributes:
      program: makes them of the traced leaves.
      traced: the traced leaves.
      leaves: the computed ones.
      gone: the traced leaves that aren't in a pytree with computed ones.
      stood: for each computed leaf the path of the largest that it stands for.
    """

    program: Program
    traced: tuple[Leaf, ...]
    leaves: tuple[Leaf, ...]
    gone: frozenset[Path]
    stood: tuple[Path, ...]

    def flatten(self, flat: Flat) -> Flat:
        """Returns leaves of either form with the computed ones in place of what these stand for.

        Raises:
          StructureError: if leaves of both forms are there, or one has another shape than when it
            was traced, naming the path.
        """
        own = [leaf.path for leaf in self.leaves if leaf.path in flat]
        had = [path for path in flat if path in self.gone]
        if not had:
            return flat
        if own:
            raise StructureError(
                f"{join(had[0])}: unexpected beside {join(own[0])}: give the leaves that kernels "
                "are computed of, or the kernels, not some of both"
            )
        values = self._values(flat)
        return {p: x for p, x in flat.items() if p not in self.gone} | values

    def _values(self, flat: Flat) -> Flat:
        """The computed leaves: in the dtypes that were traced, then cast as their leaves are."""
        wanted = {o.id for op in self.program.ops for o in op.inputs if isinstance(o, Ref)}
        arguments: list[Any] = []
        dtypes: dict[str, Any] = {}
        for leaf, ref in zip(self.traced, self.program.inputs, strict=True):
            if ref.id not in wanted:
                arguments.append(None)
                continue
            if leaf.path not in flat:
                raise StructureError(f"{join(leaf.path)}: missing, expected shape {leaf.shape}")
            value = flat[leaf.path]
            if tuple(jnp.shape(value)) != leaf.shape:
                raise StructureError(
                    f"{join(leaf.path)}: shape {tuple(jnp.shape(value))}, expected {leaf.shape}: "
                    "other leaves are computed of it"
                )
            dtypes[leaf.dtype] = jnp.result_type(value)
            arguments.append(value)
        had = [(leaf.dtype, x) for leaf, x in zip(self.traced, arguments, strict=True)]

        def made(given: list[Any]) -> list[Array]:
            pairs = zip(had, given, strict=True)
            own = [x if x is None or not is_floating(d) else cast(jnp.asarray(x), d)
                   for (d, _), x in pairs]  # fmt: skip
            return _evaluated(self.program, own)

        shapes_only = any(isinstance(x, jax.ShapeDtypeStruct) for x in arguments)
        found = jax.eval_shape(made, arguments) if shapes_only else made(arguments)
        values = {}
        for leaf, value in zip(self.leaves, found, strict=True):
            dtype = dtypes.get(leaf.dtype, leaf.dtype)
            values[leaf.path] = value.update(dtype=dtype) if shapes_only else cast(value, dtype)
        return values


def _evaluated(program: Program, arguments: list[Array]) -> list[Array]:
    env = {ref.id: x for ref, x in zip(program.inputs, arguments, strict=True)}
    for op in program.ops:
        values = [env[o.id] if isinstance(o, Ref) else o.value for o in op.inputs]
        env.update({r.id: x for r, x in zip(op.outputs, op.bind(*values), strict=True)})
    return [env[o.id] for o in program.outputs if isinstance(o, Ref)]


def cut(program: Program, traced: tuple[Leaf, ...]) -> tuple[Program, Computed | None]:
    """Makes leaves of what a program computes of its leaves alone, and not by coordinate.

    Only where that takes no more entries than the leaves which aren't needed any more: else
    nothing is won, and the kernel stays computed.

    Args:
      program: of a network; its leaves come first.
      traced: these.

    Returns:
      The program of the leaves that stay, the computed ones and the inputs; and how these are
      computed, None where there are none.
    """
    leaves = [ref.id for ref in program.inputs[: len(traced)]]
    cones = _cones(program, leaves)
    wanted = [ref for ref in _computed(program, cones) if _may(program, cones, ref)]
    kept, gone = list[int](), set[int]()
    for group in _groups(wanted, cones):
        free = _free(program, group, cones)
        if sum(_size(program, n) for n in group) <= sum(_size(program, n) for n in free):
            kept += group
            gone |= free
    if not kept:
        return program, None
    refs = tuple(map(Ref, kept))
    at = {n: k for k, n in enumerate(leaves)}
    largest = [
        max(sorted(cones[n].leaves & gone or cones[n].leaves), key=lambda k: _size(program, k))
        for n in kept
    ]
    stood = tuple(traced[at[n]].path for n in largest)
    own = tuple(
        Leaf(path, tuple(program.avals[n].shape), str(program.avals[n].dtype))
        for path, n in zip(_paths(stood, [leaf.path for leaf in traced]), kept, strict=True)
    )
    stay = tuple(ref for ref in program.inputs if ref.id not in gone)
    staying = len(traced) - len(gone)
    ops = [op for op in program.ops if not {r.id for r in op.outputs} & set(kept)]
    rest = program._replace(
        ops=needed(ops, program.outputs), inputs=(*stay[:staying], *refs, *stay[staying:])
    )
    making = Program(needed(program.ops, refs), program.inputs[: len(traced)], refs, program.avals)
    away = frozenset(traced[at[n]].path for n in gone)
    return rest, Computed(making, traced, own, away, stood)


def staying(traced: tuple[Leaf, ...], computed: Computed | None) -> tuple[Leaf, ...]:
    """The leaves that a network takes: those that stay, then the computed ones."""
    if computed is None:
        return traced
    return (*(leaf for leaf in traced if leaf.path not in computed.gone), *computed.leaves)


def known_by(paths: tuple[Path, ...], computed: Computed | None) -> tuple[Path, ...]:
    """Paths that layers are called after: of computed leaves those they stand for, where free."""
    if computed is None:
        return paths
    taken = collections.Counter([*paths, *computed.stood])
    own = zip(computed.leaves, computed.stood, strict=True)
    other = {leaf.path: path for leaf, path in own if taken[path] == 1}
    return tuple(other.get(path, path) for path in paths)


class _Cone(NamedTuple):
    """What a value is computed of: leaves, by number, and operations, by their first results."""

    leaves: frozenset[int]
    ops: frozenset[int]


def _cones(program: Program, leaves: list[int]) -> dict[int, _Cone]:
    """By value that depends on leaves or on nothing, what it is computed of."""
    cones = {n: _Cone(frozenset((n,)), frozenset()) for n in leaves}
    for op in program.ops:
        refs = [o.id for o in op.inputs if isinstance(o, Ref)]
        if all(r in cones for r in refs):
            own = [cones[r] for r in refs]
            cone = _Cone(
                frozenset().union(*(c.leaves for c in own)),
                frozenset((op.outputs[0].id,)).union(*(c.ops for c in own)),
            )
            cones.update({ref.id: cone for ref in op.outputs})
    return cones


def _computed(program: Program, cones: dict[int, _Cone]) -> list[int]:
    """Values of leaves alone that something takes which depends on inputs, in order."""
    makers = {ref.id: op for op in program.ops for ref in op.outputs}
    found: dict[int, None] = {}
    for op in program.ops:
        if op.outputs[0].id in cones:
            continue
        for operand in op.inputs:
            if isinstance(operand, Ref) and operand.id in cones and cones[operand.id].ops:
                found[_source(makers, operand)] = None
    return list(found)


def _source(makers: dict[int, Op], operand: Operand) -> int:
    """The value that a value merely shows otherwise."""
    assert isinstance(operand, Ref)
    while operand.id in makers and makers[operand.id].name in _SHOWN:
        before = makers[operand.id].inputs[0]
        if not isinstance(before, Ref):
            break
        operand = before
    return operand.id


def _may(program: Program, cones: dict[int, _Cone], value: int) -> bool:
    """Whether a value is computed of leaves, otherwise than by coordinate, whatever the inputs."""
    cone = cones[value]
    own = [op for op in program.ops if op.outputs[0].id in cone.ops]
    dtype, shape = str(program.avals[value].dtype), program.avals[value].shape
    if not cone.leaves or not is_floating(dtype) or not all(isinstance(n, int) for n in shape):
        return False
    if any(op.name in _CUT for op in own):
        return False
    spread = (
        op.name in _PRODUCTS
        and not all(isinstance(o, Ref) and cones[o.id].leaves for o in op.inputs)
        for op in own
    )
    return not any(spread) and any(op.name not in _BY_COORDINATE for op in own)


def _groups(values: list[int], cones: dict[int, _Cone]) -> list[list[int]]:
    """Values that have leaves in common, each of one group."""
    groups: list[tuple[set[int], list[int]]] = []
    for value in values:
        met = [g for g in groups if g[0] & cones[value].leaves]
        own = set(cones[value].leaves).union(*(g[0] for g in met))
        groups = [g for g in groups if g not in met]
        groups.append((own, [*(n for g in met for n in g[1]), value]))
    return [group for _, group in groups]


def _free(program: Program, group: list[int], cones: dict[int, _Cone]) -> set[int]:
    """Leaves that nothing needs once some values are there."""
    ops = [op for op in program.ops if not {r.id for r in op.outputs} & set(group)]
    used = {o.id for o in program.outputs if isinstance(o, Ref)}
    used |= {o.id for op in needed(ops, program.outputs) for o in op.inputs if isinstance(o, Ref)}
    return set().union(*(cones[n].leaves for n in group)) - used


def _size(program: Program, value: int) -> int:
    return math.prod(program.avals[value].shape)


def _paths(stood: tuple[Path, ...], paths: list[Path]) -> Iterable[Path]:
    """A path for each computed leaf, beside the one that it stands for."""
    taken = set(paths)
    for path in stood:
        named = beside(path, "computed", taken)
        taken.add(named)
        yield named
