"""Operations that act on each entry by itself."""

import jax.numpy as jnp

from linjax.dims.rules.rule import Result, Rule, View, fresh
from linjax.dims.space import Axes, Axis, find, unify
from linjax.dims.values import Role, Source, Value

# Linear in one operand, the same for every entry.
_SAME = """
    conj convert_element_type copy copy_p device_put imag mesh_cast name neg optimization_barrier
    pvary real reduce_precision reshard sharding_constraint stop_gradient
"""
_SUMS = "add sub add_any complex"
_PRODUCTS = "mul div"
_BENT = """
    abs acos acosh and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh digamma eq erf
    erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac integer_pow is_finite le lgamma
    log log1p logistic lt max min ne nextafter not or population_count pow rem round rsqrt
    select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square tan
    tanh xor
"""


def _axes(view: View) -> list[Result]:
    results = []
    for k, shape in enumerate(view.shapes):
        ins = view.ins if len(view.shapes) == 1 else view.ins[k : k + 1]
        full = [v for v in ins if len(v.axes) == len(shape)]
        axes = tuple(_met([v.axes[n] for v in full], s) for n, s in enumerate(shape))
        varies = tuple(any(_differs(v, n, s) for v in full) for n, s in enumerate(shape))
        results.append(Result(axes, varies))
    _roles(view, results)
    return results


def _differs(value: Value, n: int, size: int) -> bool:
    """Whether an operand has an entry for each of the result's along an axis, not one for all."""
    return value.varies[n] and find(value.axes[n]).size == size


def _met(met: list[Axis], size: int) -> Axis:
    """The axis that the operands have in common."""
    met = [axis for axis in met if find(axis).size == size]
    if not met:
        return fresh(size)
    for other in met[1:]:
        unify(met[0], other)
    return met[0]


def _roles(view: View, results: list[Result]) -> None:
    data = [v for v in view.ins if v.source is Source.DATA]
    for result in results:
        for n, axis in enumerate(result.axes):
            view.note(_role(view, data, n, result.axes), axis)


def _role(view: View, data: list[Value], n: int, axes: Axes) -> Role:
    """What the operation does to the n-th axis."""
    name = view.op.name
    own = [v for v in view.ins if v.source is not Source.DATA]
    rank, size = len(axes), find(axes[n]).size
    scaled = any(len(v.axes) == rank and _differs(v, n, size) for v in own)
    if name in _SAME.split():
        return Role.BENT if _coarse(view) else Role.LINEAR
    if name in _SUMS.split():
        if scaled:
            return Role.SHIFTED if _by_leaf(own) else Role.SCALED
        return Role.SCALED if view.lifted(n, size, range(len(view.ins))) else Role.LINEAR
    if name in _PRODUCTS.split():
        if len(data) == 1:
            divided = name == "div" and view.ins[1].source is Source.DATA
            return Role.BENT if divided else Role.SCALED if scaled else Role.LINEAR
        differ = [len(v.axes) == rank and _differs(v, n, size) for v in data]
        return Role.GATED if all(differ) or (name == "div" and differ[1]) else Role.LINEAR
    if name == "select_n" and view.ins[0].source is not Source.DATA:
        return (
            Role.SCALED if scaled or view.lifted(n, size, range(1, len(view.ins))) else Role.LINEAR
        )
    return Role.BENT


def _coarse(view: View) -> bool:
    """Whether numbers become whole ones, or keep so few bits that another basis would be seen."""
    if view.op.name == "reduce_precision":
        return bool(view.params["mantissa_bits"] < jnp.finfo(jnp.bfloat16).nmant)
    if view.op.name != "convert_element_type":
        return False
    after = view.params["new_dtype"]
    if jnp.issubdtype(after, jnp.floating):
        return jnp.finfo(after).bits < 16
    return not jnp.issubdtype(after, jnp.inexact)


def _by_leaf(own: list[Value]) -> bool:
    """Whether the operands that don't depend on the inputs are leaves as they are."""
    return all(v.leaf is not None for v in own)


RULES = {name: Rule(_axes) for names in (_SAME, _SUMS, _PRODUCTS, _BENT) for name in names.split()}
