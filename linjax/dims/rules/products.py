"""Products: what makes and reads dimensions."""

from typing import Any

from linjax.dims.rules.rule import Now, Result, Rule, View, fresh
from linjax.dims.space import Axis, find, product, unify
from linjax.dims.values import Role, Source


def _dot(view: View) -> list[Result]:
    (lc, rc), (lb, rb) = view.params["dimension_numbers"]
    left, right = view.ins
    for a, b in zip((*lc, *lb), (*rc, *rb), strict=True):
        unify(left.axes[a], right.axes[b])
    data = [k for k, v in enumerate(view.ins) if v.source is Source.DATA]
    role = Role.PAIRED if len(data) == 2 else Role.READ
    for a, b in zip(lc, rc, strict=True):
        for k in data:
            view.note(role, view.ins[k].axes[(a, b)[k]], k)
        view.weigh(left.axes[a])
    axes = [left.axes[a] for a in lb]
    for axis in axes:
        view.note(Role.BESIDE, axis)
    for k, (value, gone) in enumerate(((left, (*lc, *lb)), (right, (*rc, *rb)))):
        for n, axis in enumerate(value.axes):
            if n in gone:
                continue
            axes.append(axis)
            view.note(Role.LINEAR if k in data else Role.MADE, axis)
    return [Result(tuple(axes))]


def _convolution(view: View) -> list[Result]:
    numbers, groups = view.params["dimension_numbers"], view.params["feature_group_count"]
    (batch, channels, *_), (made, read, *space) = numbers.lhs_spec, numbers.rhs_spec
    data, kernel = view.ins
    source, made, read = data.axes[channels], kernel.axes[made], kernel.axes[read]
    if view.params["batch_group_count"] != 1:
        for axis in (source, made, data.axes[batch]):
            view.stay(axis, "a convolution with groups of the batch")
    if kernel.source is Source.DATA:
        for axis in (source, made, read):
            view.stay(axis, "a convolution with a kernel that depends on the inputs")
    for axis in (kernel.axes[n] for n in space):
        view.stay(axis, "the extent of a kernel in space")
    for axis in (data.axes[n] for n in numbers.lhs_spec[2:]):
        view.stay(axis, "a place in space")
    if groups == 1:
        unify(source, read)
        view.note(Role.READ, source, 0)
        view.note(Role.MADE, made)
    else:
        _grouped(view, source, made, read, groups)
    axes = [fresh(n) for n in view.shapes[0]]
    for axis in axes:
        view.stay(axis, "a place in space")
    axes[numbers.out_spec[0]] = data.axes[batch]
    axes[numbers.out_spec[1]] = made
    return [Result(tuple(axes))]


def _grouped(view: View, source: Axis, made: Axis, read: Axis, groups: int) -> None:
    """Each group of channels is read for a group of its own of the results."""
    each, group = find(made).size // groups, fresh(groups)
    if find(read).size == 1:  # every channel by itself
        unify(source, group)
        unify(made, product([group, fresh(each)]) if each > 1 else group)
        view.note(Role.FILTERED, group)
        return
    inner = fresh(each)
    unify(source, product([group, read]))
    unify(made, product([group, inner]) if each > 1 else group)
    view.note(Role.BESIDE, group)
    view.note(Role.READ, read, 0)
    if each > 1:
        view.note(Role.MADE, inner)


def _regrouped(now: Now) -> dict[str, Any]:
    """As many groups as the kernel's inputs say; kernels that were replaced say how many."""
    groups = now.op.params["feature_group_count"]
    if groups == 1:
        return {}
    numbers = now.op.params["dimension_numbers"]
    channels = now.values[0].shape[numbers.lhs_spec[1]]
    return {"feature_group_count": channels // now.values[1].shape[numbers.rhs_spec[1]]}


RULES = {"dot_general": Rule(_dot), "conv_general_dilated": Rule(_convolution, _regrouped)}
