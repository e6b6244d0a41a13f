"""Operations that take and put entries by index."""

from typing import Any

from linjax.dims.rules.rule import Now, Result, Rule, View
from linjax.dims.space import LOOKED_UP, Axis, find, unify
from linjax.dims.span import Span
from linjax.dims.values import Role, Source


def _gather(view: View) -> list[Result]:
    numbers, sizes = view.params["dimension_numbers"], view.params["slice_sizes"]
    value, index = view.ins
    beside = tuple(getattr(numbers, "operand_batching_dims", ()))
    theirs = tuple(getattr(numbers, "start_indices_batching_dims", ()))
    for a, b in zip(beside, theirs, strict=True):
        unify(value.axes[a], index.axes[b])
    gone = {*numbers.collapsed_slice_dims, *beside}
    window = [n for n in range(len(value.axes)) if n not in gone]
    axes: list[Axis | None] = [None] * len(view.shapes[0])
    for at, n in zip(numbers.offset_dims, window, strict=True):
        axes[at] = view.whole([value.axes[n]], [sizes[n]])[0]
        view.note(Role.LINEAR, axes[at])
        if value.source is Source.PARAMETER and index.source is Source.DATA:
            view.note(Role.MADE, axes[at])
    for n in numbers.collapsed_slice_dims:
        if n not in beside:
            view.stay(value.axes[n], LOOKED_UP)
    batch = iter(index.axes[:-1])
    return [Result(tuple(next(batch) if a is None else a for a in axes))]


def _slices(now: Now) -> dict[str, Any]:
    sizes = now.op.params["slice_sizes"]
    return {"slice_sizes": tuple(_whole(now, a, n) for a, n in zip(now.ins[0], sizes, strict=True))}


def _whole(now: Now, span: Span, traced: int) -> int:
    return now.size(span) if traced == span.size else traced


def _scatter(view: View) -> list[Result]:
    numbers = view.params["dimension_numbers"]
    value, index, update = view.ins
    beside = tuple(getattr(numbers, "operand_batching_dims", ()))
    theirs = tuple(getattr(numbers, "scatter_indices_batching_dims", ()))
    for a, b in zip(beside, theirs, strict=True):
        unify(value.axes[a], index.axes[b])
    gone = {*numbers.inserted_window_dims, *beside}
    window = [n for n in range(len(value.axes)) if n not in gone]
    for at, n in zip(numbers.update_window_dims, window, strict=True):
        if find(update.axes[at]).size == find(value.axes[n]).size:
            unify(update.axes[at], value.axes[n])
            view.note(view.joined((0, n), (2, at)), value.axes[n])
        else:
            view.stay(value.axes[n])
            view.stay(update.axes[at])
    for n in numbers.inserted_window_dims:
        view.stay(value.axes[n], LOOKED_UP)
    batch = [a for n, a in enumerate(update.axes) if n not in numbers.update_window_dims]
    for n, (own, axis) in enumerate(zip(index.axes[:-1], batch, strict=True)):
        unify(own, axis)
        if n not in theirs:  # entries go where indices say
            view.stay(axis, LOOKED_UP)
    return [Result(value.axes)]


def _dynamic_slice(view: View) -> list[Result]:
    axes = view.whole(view.ins[0].axes, view.params["slice_sizes"])
    for axis in axes:
        view.note(Role.LINEAR, axis)
    return [Result(axes)]


def _dynamic_sizes(now: Now) -> dict[str, Any]:
    return _slices(now)


def _dynamic_update(view: View) -> list[Result]:
    value, update = view.ins[:2]
    for n, (own, other) in enumerate(zip(value.axes, update.axes, strict=True)):
        role = Role.LINEAR
        if find(own).size == find(other).size:
            unify(own, other)
            role = view.joined((0, n), (1, n))
        else:
            view.stay(own)
            view.stay(other)
        view.note(role, own)
    return [Result(value.axes)]


_SCATTER = "scatter scatter-add scatter_add scatter-mul scatter_mul scatter-min scatter-max"

RULES = {
    "gather": Rule(_gather, _slices),
    **{name: Rule(_scatter) for name in _SCATTER.split()},
    "dynamic_slice": Rule(_dynamic_slice, _dynamic_sizes),
    "dynamic_update_slice": Rule(_dynamic_update),
}
