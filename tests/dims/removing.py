"""Removing coordinates of a network, and the same network at full size, blind to them.

The oracle knows nothing of other sizes: it goes through the traced operations at the sizes of
the trace and hides the coordinates that were removed wherever a product sums over them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from linjax.dims.layout import number
from linjax.dims.network import Network, analyse
from linjax.dims.run import execute
from linjax.dims.sites import Form, Site
from linjax.dims.span import Cut, Span, transform
from linjax.dims.values import Role
from linjax.program.flat import Const, Op, Program
from linjax.program.pytree import flatten

Array = Any
FREE = (Form.BENT, Form.STRAIGHT, Form.PAIRED)
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def analysed(apply: Callable, params: Any, inputs: tuple) -> Network:
    """The network of a function."""
    return analyse(apply, params, tuple(inputs), tuple(flatten(params)))


def chosen(network: Network, seed: int = 0, forms: tuple[Form, ...] = FREE) -> dict[int, Array]:
    """Random coordinates to keep, by dimension: ``(*repeats, kept)`` in ascending order."""
    rng, kept = np.random.default_rng(seed), {}
    for site in network.sites:
        if site.form in forms:
            repeats = tuple(network.layout.traced[d] for d in site.beside)
            count = int(rng.integers(1, site.width))
            order = rng.random((*repeats, site.width)).argsort(axis=-1)
            kept[site.dim] = np.sort(order[..., :count], axis=-1)
    return kept


def removed(network: Network, flat: Mapping, kept: Mapping[int, Array]) -> dict:
    """The leaves without the other coordinates, and the constants that went along."""
    layout, sizes = network.layout, dict(network.layout.traced)
    arrays = {path: np.asarray(leaf) for path, leaf in flat.items()}
    spans = dict(zip(network.paths, layout.leaves, strict=True))
    for key in network.varying:
        op, place = layout.makers[key[0]], key[1]
        arrays[network.constant(key)] = np.asarray(op.inputs[place].value)
        spans[network.constant(key)] = layout.constants[key].spans
    sites = {site.dim: site for site in network.sites}
    for dim, index in kept.items():
        cut = Cut(dim, sites[dim].beside, dict(sizes).__getitem__, lambda x, i=index: _taken(x, i))
        for path, array in arrays.items():
            held = _constant_of(network, path)
            if held is None or _differs(held, dim):
                arrays[path] = transform(array, spans[path], cut)
        sizes[dim] = index.shape[-1]
    return arrays


def _constant_of(network: Network, path: tuple) -> Any:
    keys = {network.constant(key): key for key in network.varying}
    return network.layout.constants[keys[path]] if path in keys else None


def _differs(held: Any, dim: int) -> bool:
    """Constants are fitted along axes on which they are the same."""
    return any(v and dim in s.dims() for s, v in zip(held.spans, held.varies, strict=True))


def _taken(array: Array, index: Array) -> Array:
    between = array.ndim - index.ndim
    shape = (*index.shape[:-1], *(1,) * between, index.shape[-1])
    return np.take_along_axis(array, index.reshape(shape), axis=-1)


class Blind:
    """Runs a traced program as it was traced; products don't see what was removed."""

    def __init__(self, network: Network, kept: Mapping[int, Array]) -> None:
        self.network, self.layout = network, network.layout
        self.sites = {site.dim: site for site in network.sites if site.dim in kept}
        self.masks: dict[int, Array] = {}
        self.hidden: dict[int, list[tuple[int, int]]] = {}
        for dim, index in kept.items():
            mask = np.zeros((*index.shape[:-1], self.layout.traced[dim]), bool)
            np.put_along_axis(mask, index, True, axis=-1)
            self.masks[dim] = mask
            for mark in self.layout.marks[dim]:
                if mark.role in (Role.READ, Role.PAIRED):
                    self.hidden.setdefault(mark.op, []).append((dim, mark.operand))

    def __call__(self, leaves: list[Array], inputs: list[Array]) -> list[Array]:
        return self.program(self.layout.program, [*leaves, *inputs], {})

    def program(self, program: Program, arguments: list, steps: dict[int, int]) -> list[Array]:
        env = {ref.id: value for ref, value in zip(program.inputs, arguments, strict=True)}
        read = lambda o: o.value if isinstance(o, Const) else env[o.id]  # noqa: E731
        for op in program.ops:
            values = [read(o) for o in op.inputs]
            for dim, place in self.hidden.get(number(op), ()):
                seen = self.mask(op, place, dim, steps)
                values[place] = jnp.where(seen, values[place], jnp.zeros_like(values[place]))
            results = self.scan(op, values, steps) if op.scan is not None else op.bind(*values)
            env.update({ref.id: r for ref, r in zip(op.outputs, results, strict=True)})
        return [read(o) for o in program.outputs]

    def mask(self, op: Op, place: int, dim: int, steps: dict[int, int]) -> Array:
        """True where an operand's entries are kept, at its axes."""
        spans, site = self.layout.operand(op, place).spans, self.sites[dim]
        mask, index = self.masks[dim], []
        inside = np.zeros(tuple(s.size for s in spans), bool)
        for d in (*site.beside, dim):
            where = np.full(inside.shape, steps.get(d, -1))
            for n, span in enumerate(spans):
                own = coordinates(span, d).reshape(-1, *(1,) * (len(spans) - n - 1))
                where = np.where((where < 0) & (own >= 0), own, where)
            index.append(where)
        inside = index[-1] >= 0
        assert all((i >= 0)[inside].all() for i in index), "a repeat is missing"
        return jnp.asarray(~inside | mask[tuple(index)])

    def scan(self, op: Op, values: list, steps: dict[int, int]) -> list[Array]:
        scan = op.scan
        fixed = scan.consts + scan.carry
        inner = number(next(scan.body.all_ops()))
        loop = self.layout.steps[inner][len(self.layout.steps[number(op)])].dim
        carry, rows = values[scan.consts : fixed], {}
        order = range(scan.length)
        for n in reversed(order) if scan.reverse else order:
            own = [v[n] for v in values[fixed:]]
            results = self.program(
                scan.body, [*values[: scan.consts], *carry, *own], {**steps, loop: n}
            )
            carry, rows[n] = results[: scan.carry], results[scan.carry :]
        stacked = [jnp.stack(x) for x in zip(*(rows[n] for n in order), strict=True)]
        return [*carry, *stacked]


def coordinates(span: Span, dim: int) -> Array:
    """The coordinate of a dimension that each entry of an axis has, −1 where it has none."""
    if not span.parts:
        return np.arange(span.size) if span.dim == dim else np.full(span.size, -1)
    parts = [coordinates(part, dim) for part in span.parts]
    if not span.flattened:
        return np.concatenate(parts)
    found = np.full(tuple(map(len, parts)), -1)
    for n, own in enumerate(parts):
        own = own.reshape(-1, *(1,) * (len(parts) - n - 1))
        found = np.where((found < 0) & (own >= 0), own, found)
    return found.reshape(-1)


def quick(function: Callable, *arguments: Any) -> Any:
    """Calls a function compiled in a hurry."""
    return jax.jit(function).lower(*arguments).compile(compiler_options=QUICK)(*arguments)


def check(
    apply: Callable, params: Any, inputs: tuple, seed: int = 0, tolerance: float = 1e-5,
    network: Network | None = None,
) -> int:  # fmt: skip
    """Asserts that removing is hiding, for all sites at once; returns how many there were."""
    network = network or analysed(apply, params, inputs)
    kept = chosen(network, seed)
    flat = network.flatten(params)
    leaves, given = [flat[path] for path in network.paths], jax.tree.leaves(tuple(inputs))
    expected = quick(lambda a, b: Blind(network, kept)(a, b), leaves, given)
    small = removed(network, flat, kept)
    for site in network.sites:
        if site.dim in kept:
            assert_smaller(network, site, small, flat)
    found = jax.tree.leaves(quick(lambda p, x: execute(network, p, x).outputs, small, given))
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert_near(np.asarray(mine), np.asarray(theirs), tolerance)
    return len(kept)


def check_wide(apply: Callable, params: Any, inputs: tuple, seed: int = 0) -> int:
    """The same in double precision, as far as the network computes in it."""
    with jax.enable_x64(True):
        # By numpy: jnp.asarray compiles a conversion for each shape.
        wide = lambda x: np.asarray(x, np.float64) if is_float(x.dtype) else np.asarray(x)  # noqa: E731
        params, inputs = jax.device_put(jax.tree.map(wide, (params, inputs)))
        network = analysed(apply, params, inputs)
        avals = network.layout.program.avals.values()
        all_wide = all(a.dtype == jnp.float64 for a in avals if is_float(a.dtype))
        return check(apply, params, inputs, seed, 1e-10 if all_wide else 2e-5, network)


def is_float(dtype: Any) -> bool:
    """Whether a dtype is of real floating numbers."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def assert_near(a: Array, b: Array, tolerance: float) -> None:
    """Two arrays agree; infinite entries, and those that aren't numbers, are the same."""
    assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
    if not np.issubdtype(a.dtype, np.inexact):
        return
    finite = np.isfinite(a) & np.isfinite(b)
    np.testing.assert_array_equal(a[~finite], b[~finite])
    a, b = a[finite], b[finite]
    error = np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-3)
    assert error < tolerance, f"relative error {error:.2g}"


def assert_smaller(network: Network, site: Site, small: Mapping, flat: Mapping) -> None:
    """The leaves that a site's dimension stands in have fewer entries than they had."""
    for path, spans in zip(network.paths, network.layout.leaves, strict=True):
        if any(site.dim in s.dims() for s in spans):
            assert math.prod(np.shape(small[path])) < math.prod(np.shape(flat[path])), path
