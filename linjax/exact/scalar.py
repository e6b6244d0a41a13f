"""What a function of one number is, proved from the primitives that compute it.

Every value of an elementwise region is described as a piecewise linear function of the number
that the region starts from: finitely many knots, a line between each and the next, a value at
each knot, all of them exact rationals, so that comparisons and steps are such functions, too.
Coefficients may be polynomials in parameters whose values aren't known (PReLU's slopes). What
isn't of this form is unknown, with the reason; of smooth functions it is known at most that they
rise or fall.

Equality is equality over the reals. Where floating point could part from that by more than the
rounding of one result (a value is moved away from zero and back, differences of values that
agree to rounding, a cast to fewer bits and back) the function is unknown or not ``plain``.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from linjax.exact import forms
from linjax.exact.casts import cast_keeps, is_kind
from linjax.exact.forms import Coefficient, Form, Unknown, as_number, constant, number
from linjax.program.flat import Const, Op, Operand, Program, Ref

_LAYOUT = {"reshape", "transpose", "broadcast_in_dim", "squeeze"}
_SAME = _LAYOUT | {"copy", "copy_p", "name", "stop_gradient", "pvary", "real"}
_RISING = {"exp", "exp2", "expm1", "tanh", "logistic", "erf", "atan", "asinh", "sinh", "cbrt"}
_RISING |= {"floor", "ceil", "round", "sign", "reduce_precision"}
_EXACT = {"max", "min", "abs", "neg", "select_n", "clamp", "sign", "convert_element_type"}
_MOST_KNOTS = 64
_SIGNS = {"lt": {-1}, "le": {-1, 0}, "gt": {1}, "ge": {0, 1}, "eq": {0}, "ne": {-1, 1}}


class Parameter(NamedTuple):
    """A number that isn't known: a leaf of the pytree, one entry a unit or one for all."""

    number: int


class Scalar(NamedTuple):
    """What is proved of a function of one number.

    Attributes:
      form: the function, None if it isn't known to be piecewise linear.
      trend: 1 if it never falls, -1 if it never rises, 0 if it is constant, None if unknown.
      reason: why ``form`` is unknown, empty otherwise.
      plain: whether all values on the way are either constant between knots or, like the result
        of a ReLU, linear on either side of zero: then rounding is relative to the result.
      exact: whether no step on the way rounds.
      rounded: whether a step casts to fewer bits; computing in more from there on is refused.
    """

    form: Form | None
    trend: int | None = None
    reason: str = ""
    plain: bool = True
    exact: bool = True
    rounded: bool = False

    @property
    def two_slopes(self) -> tuple[Coefficient, Coefficient] | None:
        """The slopes below and above zero, where the function is linear on either side of it."""
        if self.form is None or not self.plain or not forms.is_homogeneous(self.form):
            return None
        return self.form.lines[0][0], self.form.lines[-1][0]


IDENTITY = Scalar(Form((), ((number(1), {}),), ()), 1)


def describe(
    program: Program,
    ops: Sequence[Op],
    start: Ref,
    outside: Callable[[Operand], Any],
    end: Operand | None = None,
) -> Scalar:
    """Proves what operations compute from one value, entry by entry.

    Args:
      program: the program that the operations stand in.
      ops: elementwise and layout operations, in order.
      start: the value that they start from.
      outside: what another operand is: a number that all its entries are, a
        :class:`Parameter`, or None where nothing is known of it.
      end: the result; by default that of the last operation, or ``start`` without any.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from linjax.program.flat import record
      >>> program, _ = record(lambda z: jnp.maximum(z, 0.25 * z), 1.0)
      >>> found = describe(program, program.ops, program.inputs[0], lambda operand: None)
      >>> [float(as_number(slope)) for slope in found.two_slopes], found.trend
      ([0.25, 1.0], 1)
    """
    known: dict[int, Scalar] = {start.id: IDENTITY}

    def read(operand: Operand) -> Scalar:
        if isinstance(operand, Ref) and operand.id in known:
            return known[operand.id]
        value = _uniform(operand) if isinstance(operand, Const) else outside(operand)
        if isinstance(value, Parameter):
            return Scalar(constant({(value.number,): Fraction(1)}), 0)
        if value is None or not math.isfinite(float(value)):
            what = "a value that varies" if value is None else f"the constant {value}"
            return Scalar(None, None if value is None else 0, what)
        return Scalar(constant(number(float(value))), 0)

    for op in ops:
        found = _step(program, op, [read(operand) for operand in op.inputs])
        known.update({out.id: found for out in op.outputs})
    return read(end if end is not None else ops[-1].outputs[0] if ops else start)


def _step(program: Program, op: Op, given: list[Scalar]) -> Scalar:
    """Describes the result of one operation."""
    if op.name in _SAME:
        return given[0]
    dtypes = [_dtype(program, operand) for operand in op.inputs]
    rounded, exact = any(g.rounded for g in given), all(g.exact for g in given)
    plain = all(g.plain for g in given)
    try:
        missing = next((g for g in given if g.form is None), None)
        if missing is not None:
            raise Unknown(missing.reason)
        own = [g.form for g in given if g.form is not None]
        if op.name == "convert_element_type":
            form, rounds = _cast(own[0], dtypes[0], op.params["new_dtype"], rounded)
            rounded, exact = rounded or rounds, exact and not rounds
        elif op.name in _RULES:
            form = forms.tidy(_RULES[op.name](op, own, exact, dtypes))
        else:
            raise Unknown(f"{op.name} isn't piecewise linear")
        if len(form.knots) > _MOST_KNOTS:
            raise Unknown("it has too many pieces")
    except Unknown as unknown:
        return Scalar(None, _trend(op, given, dtypes), str(unknown))
    exact &= op.name in _EXACT or op.name in _SIGNS or _by_power_of_two(op, own)
    plain &= forms.is_flat(form) or (forms.is_homogeneous(form) and forms.is_moderate(form))
    return Scalar(form, forms.trend(form), "", plain, exact, rounded)


def _cast(form: Form, before: Any, after: Any, rounded: bool) -> tuple[Form, bool]:
    """A cast, and whether it rounds."""
    if all(not slope and as_number(offset) is not None for slope, offset in form.lines):

        def value(x: Fraction) -> Fraction:
            found = np.asarray(float(x)).astype(jnp.dtype(before)).astype(jnp.dtype(after))
            if Fraction(float(x)) != x or not math.isfinite(float(found)):
                raise Unknown("a cast of a number that isn't one of its dtype")
            return Fraction(float(found))

        return forms.lift(value, [form]), False
    kept = cast_keeps(before, after)
    if kept == "changes":
        raise Unknown(f"a cast to {jnp.dtype(after)}")
    if kept == "exact" and rounded and before != after:
        raise Unknown(f"rounding to {jnp.dtype(before)} and back")
    return form, kept == "rounds"


def _compared(a: Form, b: Form, exact: bool) -> Form:
    """The sign of a difference, unless rounding decides it."""
    if not exact:
        forms.require_apart(a, b)
    return forms.sign(forms.add(a, forms.scaled(b, -1)))


def _greater(a: Form, b: Form, exact: bool, sign: int = 1) -> Form:
    over = forms.lift(lambda s: Fraction(s * sign > 0), [_compared(a, b, exact)])
    return forms.select(over, [b, a])


def _sum(a: Form, b: Form, exact: bool) -> Form:
    if not exact:
        forms.require_apart(a, forms.scaled(b, -1))
    return forms.add(a, b)


def _power(form: Form, exponent: int) -> Form:
    if exponent == 1:
        return form
    base = forms.inverse(form) if exponent < 0 else form
    return forms.lift(lambda x: x ** abs(exponent), [base])


def _arithmetic(rule: Callable[[Op, list[Form], bool], Form]) -> Callable[..., Form]:
    """Arithmetic on floating point numbers; integers wrap around."""

    def checked(op: Op, f: list[Form], exact: bool, dtypes: list[Any]) -> Form:
        if not all(is_kind(dtype, jnp.floating) for dtype in dtypes):
            raise Unknown(f"{op.name} of integers")
        return rule(op, f, exact)

    return checked


def _logic(function: Callable[..., Any]) -> Callable[..., Form]:
    def checked(op: Op, f: list[Form], exact: bool, dtypes: list[Any]) -> Form:
        if not all(is_kind(dtype, jnp.bool_) for dtype in dtypes):
            raise Unknown(f"{op.name} of integers")
        return forms.lift(function, f)

    return checked


def _comparison(signs: set[int]) -> Callable[..., Form]:
    def rule(op: Op, f: list[Form], exact: bool, dtypes: list[Any]) -> Form:
        same = op.inputs[0] == op.inputs[1]
        return forms.lift(lambda s: s in signs, [_compared(f[0], f[1], exact or same)])

    return rule


_RULES: dict[str, Callable[..., Form]] = {
    "add": _arithmetic(lambda op, f, exact: _sum(f[0], f[1], exact)),
    "sub": _arithmetic(
        lambda op, f, exact: _sum(
            f[0], forms.scaled(f[1], -1), exact or op.inputs[0] == op.inputs[1]
        )
    ),
    "mul": _arithmetic(lambda op, f, exact: forms.product(f[0], f[1])),
    "div": _arithmetic(lambda op, f, exact: forms.product(f[0], forms.inverse(f[1]))),
    "neg": _arithmetic(lambda op, f, exact: forms.scaled(f[0], -1)),
    "abs": _arithmetic(lambda op, f, exact: forms.product(forms.sign(f[0]), f[0])),
    "sign": _arithmetic(lambda op, f, exact: forms.sign(f[0])),
    "square": _arithmetic(lambda op, f, exact: _power(f[0], 2)),
    "integer_pow": _arithmetic(lambda op, f, exact: _power(f[0], op.params["y"])),
    "max": lambda op, f, exact, dtypes: _greater(f[0], f[1], exact),
    "min": lambda op, f, exact, dtypes: _greater(f[0], f[1], exact, -1),
    "clamp": lambda op, f, exact, dtypes: _greater(_greater(f[1], f[0], exact), f[2], exact, -1),
    "select_n": lambda op, f, exact, dtypes: forms.select(f[0], f[1:]),
    "not": _logic(lambda x: 1 - x),
    "and": _logic(lambda x, y: x * y),
    "or": _logic(lambda x, y: max(x, y)),
    "xor": _logic(lambda x, y: abs(x - y)),
    "is_finite": lambda op, f, exact, dtypes: constant(number(1)),
} | {name: _comparison(signs) for name, signs in _SIGNS.items()}


def _trend(op: Op, given: list[Scalar], dtypes: list[Any]) -> int | None:
    """The trend of a result that isn't piecewise linear, from those of its operands."""
    kept = cast_keeps(dtypes[0], op.params["new_dtype"]) if "new_dtype" in op.params else ""
    trends = [g.trend for g in given]
    if all(trend == 0 for trend in trends):
        return 0
    if None in trends:
        return None
    if op.name in _RISING or (op.name == "convert_element_type" and kept != "changes"):
        return trends[0]
    if op.name in ("neg", "erfc"):
        return -trends[0]
    if op.name == "sub":
        trends[1] = -trends[1]
    if op.name in ("mul", "div"):
        for factor, other in ((1, 0), (0, 1)) if op.name == "mul" else ((1, 0),):
            form = given[factor].form
            value = as_number(form.lines[0][1]) if form is not None and not trends[factor] else None
            if value is not None:
                return trends[other] * ((value > 0) - (value < 0))
        return None
    if op.name in ("add", "sub", "max", "min", "clamp"):
        own = set(trends) - {0}
        return own.pop() if len(own) == 1 else None
    return None


def _by_power_of_two(op: Op, factors: list[Form]) -> bool:
    """Whether an operation is a product with powers of two."""
    if op.name not in ("mul", "div"):
        return False
    for form in factors[1:] if op.name == "div" else factors:
        values = [as_number(offset) for slope, offset in form.lines if not slope]
        if len(values) == len(form.lines) and all(
            v is not None and (not v or abs(math.frexp(float(v))[0]) == 0.5) for v in values
        ):
            return True
    return False


def _uniform(operand: Const) -> Any:
    """The one number that a constant holds everywhere, None if it isn't such."""
    if not is_kind(jnp.result_type(operand.value), jnp.floating, jnp.integer, jnp.bool_):
        return None
    value = np.asarray(operand.value)
    return value.flat[0] if value.size and (value == value.flat[0]).all() else None


def _dtype(program: Program, operand: Operand) -> Any:
    if isinstance(operand, Const):
        return jnp.dtype(jnp.result_type(operand.value))
    return program.avals[operand.id].dtype
