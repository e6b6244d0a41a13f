"""How large every dimension is now, read off the leaves' shapes."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from linjax.dims.carrying import Beside, Shapes
from linjax.dims.layout import Held
from linjax.dims.network import Network
from linjax.dims.scalings import Scaling
from linjax.dims.span import Span
from linjax.dims.values import Source
from linjax.errors import StructureError
from linjax.program.pytree import Path, join

Array = Any
Flat = Mapping[Path, Array]
MOST = 6
"""Leaves that an error names."""


class Sizes(NamedTuple):
    """Sizes of the dimensions.

    Attributes:
      kept: by dimension, coordinates with everything on their way.
      beside: linear coordinates beside them, and what is carried on, where there are any.
      changed: dimensions that aren't what they were.
      ways: what passes by dimensions, where something does.
      skipped: operations that were multiplied into kernels, with the operand that they hand on.
      absent: the leaves that went with them.
    """

    kept: dict[int, Any]
    beside: dict[int, Any]
    changed: frozenset[int]
    ways: dict[int, Beside]
    skipped: dict[int, int]
    absent: frozenset[int]

    def all(self, dim: int) -> Any:
        """Coordinates of both kinds."""
        return self.kept[dim] + self.beside.get(dim, 0)

    def of(self, held: Held, at: int | None = None) -> Any:
        """Sizes of dimensions in a value: parameters have entries for linear ones where read."""
        if not self.beside or held.source is not Source.PARAMETER:
            return self.all
        if at is not None and not held.varies[at]:
            return self.all
        return lambda dim: self.all(dim) if dim in held.read else self.kept[dim]

    def shape(self, held: Held) -> tuple[Any, ...]:
        """The shape that a value has now."""
        return tuple(s.now(self.of(held, n)) for n, s in enumerate(held.spans))


class Equation(NamedTuple):
    """An axis of a leaf, how many entries it has, and linear coordinates that it has them of."""

    span: Span
    size: int
    where: str
    beside: Mapping[int, int]

    def now(self, sizes: Mapping[int, int]) -> Any:
        """The entries that it has at some sizes."""
        return self.span.now(lambda dim: sizes[dim] + self.beside.get(dim, 0))


def read_sizes(network: Network, flat: Flat, inputs: Sequence[Array] = ()) -> Sizes:
    """Reads the sizes of all dimensions off the leaves and inputs.

    Raises:
      StructureError: if a leaf's shape doesn't fit the others, naming it.
    """
    layout = network.layout
    beside = _beside(network, flat)
    equations = list(_equations(network, flat, beside))
    present = _made(network, flat)
    held = {d for spans in layout.leaves for s in spans for d in s.dims()}
    own = {*(site.dim for site in network.sites), *network.passed}
    gone = {d: 0 if d in own else layout.traced[d] for d in held - present}
    fixed = {d: layout.traced[d] for d in held - gone.keys() if layout.reasons[d]}
    try:
        sizes = solve(equations, gone | fixed, network)
        traced = {**layout.traced, **sizes}
        passing = Shapes(layout, network.ways, network.paths, flat, traced, beside).beside()
    except StructureError as error:
        raise StructureError(f"{error}{_told(network, flat)}") from error
    beside |= {dim: own.all for dim, own in passing.items()}
    for ref, value in zip(layout.inputs, inputs, strict=False):
        for span, size in zip(layout.values[ref.id].spans, jnp.shape(value), strict=True):
            if not span.parts:
                sizes[span.dim] = size
    changed = {d for d, n in sizes.items() if layout.traced[d] is not n and layout.traced[d] != n}
    now = {**layout.traced, **sizes}
    merged = _merged(network, flat, now)
    return Sizes(
        now, beside, frozenset(changed | set(beside)), passing,
        skipped={op: place for scaling in merged for op, place in scaling.ops.items()},
        absent=frozenset(leaf for scaling in merged for leaf in scaling.leaves),
    )  # fmt: skip


def _told(network: Network, flat: Flat) -> str:
    """Which leaves aren't as they were traced: where they don't fit, one of these is wrong."""
    traced = {p: network.layout.program.avals[network.ref(n)] for n, p in enumerate(network.paths)}
    missing = [join(path) for path in traced if path not in flat]
    other = [
        f"{join(path)} {jnp.shape(flat[path])} for {own.shape}"
        for path, own in traced.items()
        if path in flat and jnp.shape(flat[path]) != own.shape
    ]
    told = [("missing", missing), ("of other shapes than traced", other)]
    return "".join(
        f"; {what}: {', '.join(some[:MOST])}{', …' * (len(some) > MOST)}"
        for what, some in told
        if some
    )


def _merged(network: Network, flat: Flat, now: Mapping[int, int]) -> list[Scaling]:
    """The per-unit affine maps whose parameters are all gone; some alone can't be.

    Unless no units are left, of which they would have entries: others may be one for all units.
    """
    found = []
    for scaling in network.scalings:
        paths = [network.paths[leaf] for leaf in sorted(scaling.leaves)]
        gone = [path for path in paths if path not in flat]
        if len(gone) == len(paths):
            found.append(scaling)
        elif any(
            _entries(network, leaf, now) for leaf in scaling.leaves if network.paths[leaf] in gone
        ):
            there = next(path for path in paths if path in flat)
            raise StructureError(f"{join(gone[0])}: missing beside {join(there)}")
    return found


def _entries(network: Network, leaf: int, now: Mapping[int, int]) -> int:
    """How many entries a leaf has at some sizes."""
    return math.prod(span.now(now.__getitem__) for span in network.layout.leaves[leaf])


def _made(network: Network, flat: Flat) -> set[int]:
    """Dimensions of leaves that are there; those of kernels that read them don't count.

    What no leaf has otherwise is told by the kernels that read it.
    """
    found, elsewhere, read = set[int](), set[int](), set[int]()
    for leaf, (path, spans) in enumerate(zip(network.paths, network.layout.leaves, strict=True)):
        dims = {d for s in spans for d in s.dims()}
        own = dims & network.layout.values[network.ref(leaf)].read
        read |= own
        elsewhere |= dims - own
        found |= dims - own if path in flat or network.extra(leaf, "bias") in flat else set()
    return found | (read - elsewhere)


def _beside(network: Network, flat: Flat) -> dict[int, int]:
    """How many linear coordinates dimensions have."""
    found: dict[int, int] = {}
    for dim, makers in network.passed.items():
        for maker in makers:
            extra = None if maker.leaf is None else flat.get(network.extra(maker.leaf, "linear"))
            if extra is not None:
                spans = network.layout.leaves[maker.leaf]
                at = next(n for n, s in enumerate(spans) if dim in s.dims())
                found[dim] = jnp.shape(extra)[at]
                _check_offset(network, flat, maker.leaf, jnp.shape(extra))
    return found


def _check_offset(network: Network, flat: Flat, leaf: int, linear: tuple[int, ...]) -> None:
    path = network.extra(leaf, "linear_offset")
    want = tuple(linear[n] for n in network.bias_axes(leaf))
    if path in flat and jnp.shape(flat[path]) != want:
        raise StructureError(f"{join(path)}: shape {jnp.shape(flat[path])}, expected {want}")


def _equations(network: Network, flat: Flat, beside: dict[int, int]) -> Iterable[Equation]:
    """What the leaves' shapes say; a factored kernel is read by its first factor.

    What is read of ways follows from these; a bias without a kernel says what that would make.
    """
    ways = {way.dim for way in network.ways}
    for leaf, (path, spans) in enumerate(zip(network.paths, network.layout.leaves, strict=True)):
        gone = path not in flat
        if gone:
            yield from _of_bias(network, flat, leaf)
            path = network.extra(leaf, "linear")  # tells what is read if it is all that is left
            if path not in flat:
                continue
        shape, down = jnp.shape(flat[path]), flat.get(network.extra(leaf, "down"))
        if len(shape) != len(spans):
            raise StructureError(f"{join(path)}: shape {shape}, expected {len(spans)} axes")
        read = network.layout.values[network.ref(leaf)].read
        for n, (span, size) in enumerate(zip(spans, shape, strict=True)):
            inner = bool(read & set(span.dims()))
            if (inner and ways & set(span.dims())) or (gone and not inner):
                continue
            if down is not None and not inner and not _marked(network, span):
                continue  # the extent of a kernel in space, which one of the factors has
            size = jnp.shape(down)[n] if inner and down is not None else size
            more = {d: beside[d] for d in span.dims() if d in read and d in beside}
            yield Equation(span, size, f"{join(path)}, axis {n}", more)


def _of_bias(network: Network, flat: Flat, leaf: int) -> Iterable[Equation]:
    path = network.extra(leaf, "bias")
    if path in flat:
        shape, spans = jnp.shape(flat[path]), network.layout.leaves[leaf]
        for n, (axis, size) in enumerate(zip(network.bias_axes(leaf), shape, strict=False)):
            yield Equation(spans[axis], size, f"{join(path)}, axis {n}", {})


def _marked(network: Network, span: Span) -> bool:
    return any(d in network.layout.marks for d in span.dims())


def solve(equations: Iterable[Equation], known: dict[int, int], network: Network) -> dict[int, int]:
    """Returns the sizes of the dimensions that the equations are about.

    Where an axis is flattened from several that may all have changed, repeats (heads, groups)
    are taken to be as many as they were.

    Raises:
      StructureError: if a leaf's shape doesn't fit the others, naming it.
    """
    sizes, waiting, traced = dict(known), list(equations), network.layout.traced
    while waiting:
        left = []
        for equation in waiting:
            unknown = {d for d in equation.span.dims() if d not in sizes}
            if len(unknown) > 1:
                left.append(equation)
                continue
            if unknown:
                (dim,) = unknown
                sizes[dim] = _alone(equation, dim, sizes, traced)
            now = equation.now(sizes)
            if now != equation.size:
                raise StructureError(f"{equation.where}: {equation.size} entries, expected {now}")
        if len(left) == len(waiting):
            dims = [d for e in left for d in e.span.dims() if d not in sizes]
            own = {site.dim for site in network.sites}
            fixed = [d for d in dims if d not in own] or [d for d in dims if d in network.repeats]
            dim = next(iter(fixed), dims[0])
            sizes[dim] = traced[dim]
        waiting = left
    return sizes


def _alone(equation: Equation, dim: int, sizes: dict[int, int], traced: dict[int, int]) -> int:
    """The one size of an axis that isn't known."""
    size, low = equation.size, equation.now({**sizes, dim: 0})
    step = equation.now({**sizes, dim: 1}) - low
    if step == 0:
        return traced[dim]
    if equation.now({**sizes, dim: 2}) - low != 2 * step:  # it stands there more than once
        grown = (n for n in itertools.count() if equation.now({**sizes, dim: n}) >= size)
        return next(grown)
    if size < low or (size - low) % step:
        raise StructureError(
            f"{equation.where}: {size} entries, expected {low} and a multiple of {step}"
        )
    return (size - low) // step
