"""What a network costs at other widths: sums of products of widths, by terms."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray

Polynomial = dict[tuple[int, int], float]
"""Coefficients of ``k^a w^b`` by (a, b); k coordinates are kept, w = k + r go on."""


class Monomial(NamedTuple):
    """A product of widths.

    Attributes:
      coefficient: what it is multiplied by.
      axes: the sites whose widths they are, and whether kept coordinates alone count (k, else
        k + r).
    """

    coefficient: float
    axes: tuple[tuple[int, bool], ...] = ()


class Term(NamedTuple):
    """The cost of one kernel: ``weight (Σ inputs) (Σ outputs)``.

    Attributes:
      inputs: what it reads.
      outputs: what it makes.
      kernel: index of the rank that it may have, −1 for none. Factored through s directions it
        costs ``weight s (Σ inputs + Σ outputs)``.
      weight: how often it is applied, bytes of a number.
    """

    inputs: tuple[Monomial, ...]
    outputs: tuple[Monomial, ...]
    kernel: int = -1
    weight: float = 1.0


class State(NamedTuple):
    """Widths of a network: per site coordinates and linear ones, per kernel a rank, 0 without."""

    units: tuple[int, ...]
    linears: tuple[int, ...]
    ranks: tuple[int, ...]


def total(terms: Sequence[Term], state: State) -> float:
    """Returns what a network costs.

    >>> dense = Term((Monomial(784.0),), (Monomial(1.0, ((0, False),)),), kernel=0)
    >>> total([dense], State((100,), (10,), (0,))), total([dense], State((100,), (10,), (5,)))
    (86240.0, 4470.0)
    """

    def side(monomials: tuple[Monomial, ...]) -> float:
        return math.fsum(
            coefficient
            * math.prod(
                state.units[i] if kept else state.units[i] + state.linears[i] for i, kept in axes
            )
            for coefficient, axes in monomials
        )

    values = []
    for term in terms:
        rank = state.ranks[term.kernel] if term.kernel >= 0 else 0
        inputs, outputs = side(term.inputs), side(term.outputs)
        values.append(term.weight * (rank * (inputs + outputs) if rank else inputs * outputs))
    return math.fsum(values)


class Ledger:
    """Widths that change one at a time, and what each of them would cost elsewhere.

    To each site the cost is a polynomial of its own widths, to each kernel one of its rank.
    They are kept by term, and made anew only where another width of the term has changed.
    """

    def __init__(self, terms: Sequence[Term], state: State) -> None:
        self.terms = tuple(terms)
        self.units, self.linears = list(state.units), list(state.linears)
        self.ranks = list(state.ranks)
        self._members = [sorted(_sites(term)) for term in self.terms]
        self._of_site: list[list[int]] = [[] for _ in self.units]
        self._of_kernel: list[list[int]] = [[] for _ in self.ranks]
        for t, term in enumerate(self.terms):
            for site in self._members[t]:
                self._of_site[site].append(t)
            if term.kernel >= 0:
                self._of_kernel[term.kernel].append(t)
        self._parts: list[dict[int, Polynomial]] = [{} for _ in self.units]
        self._sums: list[Polynomial | None] = [None for _ in self.units]

    @property
    def state(self) -> State:
        """The widths as they are."""
        return State(tuple(self.units), tuple(self.linears), tuple(self.ranks))

    def put_site(self, site: int, units: int, linears: int) -> tuple[set[int], set[int]]:
        """Changes a site's widths; returns the sites and kernels to which it matters."""
        self.units[site], self.linears[site] = units, linears
        return self._changed(self._of_site[site], site)

    def put_rank(self, kernel: int, rank: int) -> tuple[set[int], set[int]]:
        """Changes a kernel's rank; returns the sites and kernels to which it matters."""
        self.ranks[kernel] = rank
        return self._changed(self._of_kernel[kernel], -1)

    def _changed(self, terms: list[int], site: int) -> tuple[set[int], set[int]]:
        sites: set[int] = set()
        kernels: set[int] = set()
        for t in terms:
            for other in self._members[t]:
                if other != site:
                    self._parts[other].pop(t, None)
                    self._sums[other] = None
                    sites.add(other)
            if self.terms[t].kernel >= 0:
                kernels.add(self.terms[t].kernel)
        return sites, kernels

    def site_costs(self, site: int, units: Array, linears: Array) -> Array:
        """Returns the cost of all terms that a site is part of, at other widths of it."""
        polynomial = self._polynomial(site)
        widths = units + linears
        found = np.zeros(np.shape(units))
        for (a, b), coefficient in polynomial.items():
            found += coefficient * _power(units, a) * _power(widths, b)
        return found

    def rank_costs(self, kernel: int, ranks: Array) -> Array:
        """Returns the cost of all terms that a kernel is part of, at other ranks of it."""
        plain, slope = 0.0, 0.0
        for t in self._of_kernel[kernel]:
            term = self.terms[t]
            inputs, outputs = self._value(term.inputs), self._value(term.outputs)
            plain += term.weight * inputs * outputs
            slope += term.weight * (inputs + outputs)
        return np.where(ranks > 0, slope * ranks, plain)

    def _value(self, monomials: tuple[Monomial, ...]) -> float:
        return self._side(monomials, -1).get((0, 0), 0.0)

    def _side(self, monomials: tuple[Monomial, ...], site: int) -> Polynomial:
        """One side of a term as a polynomial of one site's widths."""
        found: Polynomial = {}
        for coefficient, axes in monomials:
            a = b = 0
            for i, kept in axes:
                if i == site:
                    a, b = (a + 1, b) if kept else (a, b + 1)
                else:
                    coefficient *= self.units[i] + (0 if kept else self.linears[i])
            found[a, b] = found.get((a, b), 0.0) + coefficient
        return found

    def _polynomial(self, site: int) -> Polynomial:
        """What all terms of a site cost, as a polynomial of its widths."""
        if self._sums[site] is None:
            parts = self._parts[site]
            added: Polynomial = {}
            for t in self._of_site[site]:
                if t not in parts:
                    parts[t] = self._term(t, site)
                for power, coefficient in parts[t].items():
                    added[power] = added.get(power, 0.0) + coefficient
            self._sums[site] = added
        return self._sums[site]

    def _term(self, t: int, site: int) -> Polynomial:
        term = self.terms[t]
        rank = self.ranks[term.kernel] if term.kernel >= 0 else 0
        inputs = self._side(term.inputs, site)
        outputs = self._side(term.outputs, site)
        found: Polynomial = {}
        if rank:
            for side in (inputs, outputs):
                for power, coefficient in side.items():
                    found[power] = found.get(power, 0.0) + term.weight * rank * coefficient
            return found
        for (a, b), left in inputs.items():
            for (c, d), right in outputs.items():
                power = a + c, b + d
                found[power] = found.get(power, 0.0) + term.weight * left * right
        return found


def _power(values: Array, exponent: int) -> Array | float:
    """A power, the common ones without a call of pow."""
    return 1.0 if exponent == 0 else values if exponent == 1 else values**exponent


def _sites(term: Term) -> set[int]:
    return {i for monomial in (*term.inputs, *term.outputs) for i, _ in monomial.axes}
