"""Piecewise linear functions of one number, exactly: rational knots, slopes and offsets.

A function may jump, so that comparisons, steps and choices are such functions, too. Slopes and
offsets may be polynomials in parameters whose numbers aren't known; knots may not.
"""

import bisect
import itertools
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

Coefficient = dict[tuple[int, ...], Fraction]
"""A polynomial in parameters: the factor of each product of their numbers, ``()`` being 1."""
Line = tuple[Coefficient, Coefficient]
"""Slope and offset."""

_CLOSE = Fraction(1, 1024)
_SPAN = Fraction(2) ** 20


class Unknown(Exception):
    """A primitive leads out of what can be described; the message says how."""


class Form(NamedTuple):
    """A piecewise linear function on the reals.

    Attributes:
      knots: where it may bend or jump, rising.
      lines: on the open intervals between them, one more than knots.
      at: its values at the knots.
    """

    knots: tuple[Fraction, ...]
    lines: tuple[Line, ...]
    at: tuple[Coefficient, ...]

    def __call__(self, x: Fraction) -> Coefficient:
        """The value at a number."""
        place = bisect.bisect_left(self.knots, x)
        at_knot = place < len(self.knots) and self.knots[place] == x
        return self.at[place] if at_knot else _value(self.lines[place], x)


def number(value: Any) -> Coefficient:
    """A known number as a coefficient."""
    return {(): Fraction(value)} if value else {}


def as_number(value: Coefficient) -> Fraction | None:
    """The number that a coefficient is, None if it depends on parameters."""
    return value.get((), Fraction(0)) if set(value) <= {()} else None


def constant(value: Coefficient) -> Form:
    """A constant function."""
    return Form((), (({}, value),), ())


def add(a: Form, b: Form) -> Form:
    """The sum of two functions."""
    return _combine(lambda x, y: (_plus(x[0], y[0]), _plus(x[1], y[1])), [a, b])


def scaled(a: Form, factor: int | Fraction) -> Form:
    """A function times a number."""
    return _combine(lambda x: (_times(x[0], number(factor)), _times(x[1], number(factor))), [a])


def product(a: Form, b: Form) -> Form:
    """The product of two functions, one of which is constant wherever the other isn't."""

    def rule(x: Line, y: Line) -> Line:
        if x[0] and y[0]:
            raise Unknown("a product of two of its values")
        factor, line = (y[1], x) if not y[0] else (x[1], y)
        return _times(line[0], factor), _times(line[1], factor)

    return _combine(rule, [a, b])


def inverse(a: Form) -> Form:
    """One over a function that is constant between knots, and never zero."""

    def value(x: Fraction) -> Fraction:
        if not x:
            raise Unknown("a division by zero")
        return 1 / x

    return lift(value, [a])


def sign(form: Form) -> Form:
    """-1, 0 or 1, with a knot wherever the function crosses zero."""
    roots = []
    for line in form.lines:
        slope, offset = map(as_number, line)
        if slope is None or offset is None:
            raise Unknown("a parameter decides")
        roots += [-offset / slope] if slope else []
    form = refined(form, roots)
    ends = form.knots
    middles = [(a + b) / 2 for a, b in itertools.pairwise(ends)]
    inside = [ends[0] - 1, *middles, ends[-1] + 1] if ends else [Fraction(0)]

    values = (_value(line, x) for line, x in zip(form.lines, inside, strict=True))
    lines: tuple[Line, ...] = tuple(({}, _sign(value)) for value in values)
    return Form(ends, lines, tuple(map(_sign, form.at)))


def _sign(value: Coefficient) -> Coefficient:
    known = as_number(value)
    if known is None:
        raise Unknown("a parameter decides")
    return number((known > 0) - (known < 0))


def select(which: Form, cases: list[Form]) -> Form:
    """The function whose number ``which`` says, constant between knots."""

    def rule(index: Line, *lines: Line) -> Line:
        chosen = as_number(index[1])
        if index[0] or chosen is None:
            raise Unknown("a choice by a value that varies")
        return lines[int(chosen)]

    return _combine(rule, [which, *cases])


def lift(function: Callable[..., Any], forms: list[Form]) -> Form:
    """Applies a function of numbers to functions that are constant between knots."""

    def rule(*lines: Line) -> Line:
        numbers = [as_number(offset) for slope, offset in lines if not slope]
        if len(numbers) < len(lines) or None in numbers:
            raise Unknown("it isn't piecewise linear")
        return {}, number(function(*numbers))

    return _combine(rule, forms)


def trend(form: Form) -> int | None:
    """Whether a piecewise linear function never falls or never rises."""
    ends = form.knots
    signs: set[int] = set()
    for i, line in enumerate(form.lines):
        slope = as_number(line[0])
        if slope is None:
            return None
        signs.add((slope > 0) - (slope < 0))
        if i < len(ends):
            before, after = (_value(piece, ends[i]) for piece in form.lines[i : i + 2])
            steps = [as_number(_plus(y, _times(x, number(-1))))
                     for x, y in ((before, form.at[i]), (form.at[i], after))]  # fmt: skip
            if None in steps:
                return None
            signs.update((step > 0) - (step < 0) for step in steps if step is not None)
    signs -= {0}
    return next(iter(signs), 0) if len(signs) < 2 else None


def _plus(a: Coefficient, b: Coefficient) -> Coefficient:
    total = {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}
    return {key: Fraction(value) for key, value in total.items() if value}


def _times(a: Coefficient, b: Coefficient) -> Coefficient:
    total: Coefficient = {}
    for x, p in a.items():
        for y, q in b.items():
            total = _plus(total, {tuple(sorted(x + y)): p * q})
    return total


def _value(line: Line, x: Fraction) -> Coefficient:
    return _plus(_times(line[0], number(x)), line[1])


def is_flat(form: Form) -> bool:
    """Whether a function is constant between knots."""
    return all(not slope for slope, _ in form.lines)


def is_homogeneous(form: Form) -> bool:
    """Whether ``f(ρ x) = ρ f(x)`` for all ρ > 0: two slopes that meet at zero."""
    lines = all(not offset for _, offset in form.lines)
    return set(form.knots) <= {Fraction(0)} and lines and not any(form.at)


def is_moderate(form: Form) -> bool:
    """Whether slopes are far from where numbers overflow or vanish on the way."""
    slopes = (as_number(slope) for slope, _ in form.lines)
    return all(not s or 1 / _SPAN <= abs(s) <= _SPAN for s in slopes)


def require_apart(a: Form, b: Form) -> None:
    """Refuses slopes that are the same but for rounding: their difference is rounding's."""
    knots = {*a.knots, *b.knots}
    for x, y in zip(refined(a, knots).lines, refined(b, knots).lines, strict=True):
        for u, v in zip(x, y, strict=True):
            p, q = as_number(u), as_number(v)
            if u and v and (p is None or q is None):
                raise Unknown("parameters that may cancel")
            if p and q and abs(p - q) <= _CLOSE * max(abs(p), abs(q)):
                raise Unknown("a difference of values that agree to rounding")


def refined(form: Form, knots: Iterable[Fraction]) -> Form:
    """The same function with more knots."""
    ends = tuple(sorted({*form.knots, *knots}))
    lines = (form.lines[0], *(form.lines[bisect.bisect_right(form.knots, x)] for x in ends))
    return Form(ends, lines, tuple(form(x) for x in ends))


def tidy(form: Form) -> Form:
    """The same function without knots at which it neither bends nor jumps."""
    knots, lines, at = [], [form.lines[0]], []
    for x, line, value in zip(form.knots, form.lines[1:], form.at, strict=True):
        if line != lines[-1] or value != _value(line, x):
            knots.append(x)
            lines.append(line)
            at.append(value)
    return Form(tuple(knots), tuple(lines), tuple(at))


def _combine(rule: Callable[..., Line], forms: list[Form]) -> Form:
    """Applies a rule for lines between all knots, and for the values at them."""
    knots = {x for form in forms for x in form.knots}
    fine = [refined(form, knots) for form in forms]
    lines = tuple(rule(*own) for own in zip(*(form.lines for form in fine), strict=True))
    values = zip(*(form.at for form in fine), strict=True)
    at = tuple(rule(*(({}, value) for value in own))[1] for own in values)
    return Form(tuple(sorted(knots)), lines, at)
