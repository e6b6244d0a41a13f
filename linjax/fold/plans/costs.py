"""What a network costs at other widths, by terms: parameters, bytes, operations."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp

from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.sites import Product, features_of
from linjax.dims.sizes import Flat
from linjax.dims.span import Span
from linjax.dims.spelled import vanished
from linjax.fold.engine.cost import Monomial, Term

OF = ("parameters", "flops", "bytes")


class Folded(NamedTuple):
    """What earlier folds have left of a network.

    Attributes:
      vanished: by dimension of a vanished layer, the products that carry what they read past it.
      inner: by leaf of a kernel in two factors, how many directions pass.
      biased: the leaves that have a bias of their own beside them.
    """

    vanished: Mapping[int, tuple[Product, ...]] = MappingProxyType({})
    inner: Mapping[int, int] = MappingProxyType({})
    biased: frozenset[int] = frozenset()


UNFOLDED = Folded()


def folded_so_far(network: Network, flat: Flat) -> Folded:
    """Reads off a pytree what earlier folds have left of a network."""
    inner, leaves = {}, range(len(network.paths))
    for leaf in leaves:
        down = network.extra(leaf, "down")
        if down in flat:
            inner[leaf] = math.prod(jnp.shape(flat[down])[n] for n in network.bias_axes(leaf))
    biased = frozenset(n for n in leaves if network.extra(n, "bias") in flat)
    return Folded(vanished(network, flat), inner, biased)


class Widths(NamedTuple):
    """Whose widths the axes of values have.

    Attributes:
      sites: by dimension, its site's index in the plan.
      past: by dimension of a vanished layer, what its readers read instead.
    """

    sites: dict[int, int]
    past: dict[int, list[Monomial]]


def terms_of(
    network: Network,
    sites: dict[int, int],
    ranks: dict[int, int],
    of: str,
    before: Folded = UNFOLDED,
) -> tuple[Term, ...]:
    """Returns the terms of a cost.

    Args:
      network: the traced network.
      sites: by dimension, its site's index in the plan.
      ranks: by leaf, the index of the rank that its kernel may have.
      of: one of "parameters", "flops", "bytes".
      before: what earlier folds have left of it.
    """
    index = Widths(sites, {})
    for dim, carriers in before.vanished.items():
        index.past[dim] = [
            monomial
            for own in carriers
            for monomial in _monomials(features_of(network.layout, own), index, False)
        ]
    gone = {product.leaf for own in before.vanished.values() for product in own}
    if of == "flops":
        by_leaf = [own for own in _operations(network, index, ranks) if own[0] not in gone]
    else:
        by_leaf = [
            (leaf, _leaf(network, leaf, index, ranks, of))
            for leaf in range(len(network.paths))
            if _counts(network, leaf, of) and leaf not in gone
        ]
    return tuple(part for leaf, own in by_leaf for part in _halves(own, before.inner.get(leaf)))


def _halves(term: Term, inner: int | None) -> tuple[Term, ...]:
    """A kernel's term, or those of its two factors."""
    if inner is None:
        return (term,)
    through = (Monomial(float(inner)),)
    return term._replace(outputs=through), term._replace(inputs=through)


def _counts(network: Network, leaf: int, of: str) -> bool:
    """Whether a leaf's entries are parameters; integers that stand for some have bytes alone."""
    dtype = network.layout.program.avals[network.ref(leaf)].dtype
    return bool(jnp.issubdtype(dtype, jnp.number if of == "bytes" else jnp.inexact))


def _leaf(network: Network, leaf: int, index: Widths, ranks: dict[int, int], of: str) -> Term:
    """A leaf's entries; those of a kernel with linear coordinates are made and read by all."""
    held = network.layout.values[network.ref(leaf)]
    kernel = any(p.leaf == leaf for p in network.kernels.values())
    read = [s for s in held.spans if kernel and not _makes(network, held.read, s)]
    made = [s for s in held.spans if not kernel or _makes(network, held.read, s)]
    weight = 1.0
    if of == "bytes":
        weight = float(network.layout.program.avals[network.ref(leaf)].dtype.itemsize)
    return Term(
        _monomials(read, index, False),
        _monomials(made, index, not kernel),
        ranks.get(leaf, -1),
        weight,
    )


def _monomials(spans: list[Span], index: Widths, kept: bool) -> tuple[Monomial, ...]:
    """The size of some axes together, as a sum of products of widths."""
    found = [Monomial(1.0)]
    for span in spans:
        found = [
            Monomial(a.coefficient * b.coefficient, (*a.axes, *b.axes))
            for a in found
            for b in _sizes(span, index, kept)
        ]
    return tuple(found)


def _sizes(span: Span, index: Widths, kept: bool) -> list[Monomial]:
    if not span.parts:
        if span.dim in index.past:
            return index.past[span.dim]
        if span.dim in index.sites:
            return [Monomial(1.0, ((index.sites[span.dim], kept),))]
        return [Monomial(float(span.size))]
    if span.flattened:
        return list(_monomials(list(span.parts), index, kept))
    merged: dict[Any, float] = {}
    for part in span.parts:
        for monomial in _sizes(part, index, kept):
            merged[monomial.axes] = merged.get(monomial.axes, 0.0) + monomial.coefficient
    return [Monomial(coefficient, axes) for axes, coefficient in merged.items()]


def _operations(
    network: Network, index: Widths, ranks: dict[int, int]
) -> list[tuple[int | None, Term]]:
    """Multiplications and additions of all products, for the example traced, with their kernels."""
    found = list[tuple[int | None, Term]]()
    for op in network.layout.program.all_ops():
        if op.name not in ("dot_general", "conv_general_dilated"):
            continue
        times = 2.0 * math.prod(s.size for s in network.layout.steps[number(op)])
        product = network.kernels.get(number(op))
        out = network.layout.values[number(op)]
        if product is None:
            (contract, _), _ = (
                op.params.get("dimension_numbers", (((), ()), ()))
                if (op.name == "dot_general")
                else (((), ()), ())
            )
            left = network.layout.operand(op, 0)
            summed = [left.spans[n] for n in contract]
            inputs = _monomials(summed, index, False)
            outputs = _monomials(list(out.spans), index, False)
            found.append((None, Term(inputs, outputs, weight=times)))
            continue
        kernel = network.layout.operand(op, 1 - product.data)
        made = [s for s in kernel.spans if _makes(network, kernel.read, s)]
        read = [s for s in kernel.spans if not _makes(network, kernel.read, s)]
        entries = math.prod(s.size for s in out.spans)
        own = math.prod(s.size for s in made)
        term = Term(
            _monomials(read, index, False),
            _monomials(made, index, False),
            ranks.get(product.leaf, -1) if product.leaf is not None else -1,
            times * entries / max(own, 1),
        )
        found.append((product.leaf, term))
    return found


def _makes(network: Network, read: frozenset[int], span: Span) -> bool:
    """Whether an axis of a kernel is of what it makes; its extent in space isn't."""
    dims = set(span.dims())
    return not read & dims and any(d in network.layout.marks for d in dims)
