"""What a network costs at other widths, by terms: parameters, bytes, operations."""

import math
from typing import Any

import jax.numpy as jnp

from linjax.dims.layout import number
from linjax.dims.network import Network
from linjax.dims.span import Span
from linjax.fold.engine.cost import Monomial, Term

OF = ("parameters", "flops", "bytes")


def terms_of(
    network: Network, index: dict[int, int], ranks: dict[int, int], of: str
) -> tuple[Term, ...]:
    """Returns the terms of a cost.

    Args:
      network: the traced network.
      index: by dimension, its site's index in the plan.
      ranks: by leaf, the index of the rank that its kernel may have.
      of: one of "parameters", "flops", "bytes".
    """
    if of == "flops":
        return _operations(network, index, ranks)
    return tuple(
        _leaf(network, leaf, index, ranks, of)
        for leaf in range(len(network.paths))
        if _floating(network, leaf)
    )


def _floating(network: Network, leaf: int) -> bool:
    aval = network.layout.program.avals[network.ref(leaf)]
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def _leaf(
    network: Network, leaf: int, index: dict[int, int], ranks: dict[int, int], of: str
) -> Term:
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


def _monomials(spans: list[Span], index: dict[int, int], kept: bool) -> tuple[Monomial, ...]:
    """The size of some axes together, as a sum of products of widths."""
    found = [Monomial(1.0)]
    for span in spans:
        found = [
            Monomial(a.coefficient * b.coefficient, (*a.axes, *b.axes))
            for a in found
            for b in _sizes(span, index, kept)
        ]
    return tuple(found)


def _sizes(span: Span, index: dict[int, int], kept: bool) -> list[Monomial]:
    if not span.parts:
        if span.dim in index:
            return [Monomial(1.0, ((index[span.dim], kept),))]
        return [Monomial(float(span.size))]
    if span.flattened:
        return list(_monomials(list(span.parts), index, kept))
    merged: dict[Any, float] = {}
    for part in span.parts:
        for monomial in _sizes(part, index, kept):
            merged[monomial.axes] = merged.get(monomial.axes, 0.0) + monomial.coefficient
    return [Monomial(coefficient, axes) for axes, coefficient in merged.items()]


def _operations(network: Network, index: dict[int, int], ranks: dict[int, int]) -> tuple[Term, ...]:
    """Multiplications and additions of all products, for the example traced."""
    found = []
    for op in network.layout.program.all_ops():
        if op.name not in ("dot_general", "conv_general_dilated"):
            continue
        times = 2.0 * math.prod(network.layout.traced[d] for d in network.layout.loops[number(op)])
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
            found.append(
                Term(
                    _monomials(summed, index, False),
                    _monomials(list(out.spans), index, False),
                    weight=times,
                )
            )
            continue
        kernel = network.layout.operand(op, 1 - product.data)
        made = [s for s in kernel.spans if _makes(network, kernel.read, s)]
        read = [s for s in kernel.spans if not _makes(network, kernel.read, s)]
        entries = math.prod(s.size for s in out.spans)
        own = math.prod(s.size for s in made)
        found.append(
            Term(
                _monomials(read, index, False),
                _monomials(made, index, False),
                ranks.get(product.leaf, -1) if product.leaf is not None else -1,
                times * entries / max(own, 1),
            )
        )
    return tuple(found)


def _makes(network: Network, read: frozenset[int], span: Span) -> bool:
    """Whether an axis of a kernel is of what it makes; its extent in space isn't."""
    dims = set(span.dims())
    return not read & dims and any(d in network.layout.marks for d in dims)
