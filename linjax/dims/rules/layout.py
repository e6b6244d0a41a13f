"""Operations that lay entries out otherwise, or spread them."""

import itertools
import math
from typing import Any

from linjax.dims.rules.rule import Now, Result, Rule, View, fresh
from linjax.dims.space import Axis, Kind, align, find, product, unify
from linjax.dims.values import Role, Value


def _reshape(view: View) -> list[Result]:
    value, new = view.ins[0], [fresh(n) for n in view.shapes[0]]
    old = [a for a in value.axes if find(a).size != 1]
    wide = [a for a in new if a.size != 1]
    for xs, ys in _segments(old, wide):
        pairs = None
        if view.params.get("dimensions") is None and all(find(a).size for a in xs):
            pairs = align(xs, ys, Kind.PRODUCT)
        for x, y in pairs or ():
            unify(x, y)
        for axis in (*xs, *ys) if pairs is None else ():
            view.stay(axis, "a reshape cuts or joins it where its parts don't end")
    if view.ins[0].axes and new and find(value.axes[-1]).size == new[-1].size == 1:
        unify(value.axes[-1], new[-1])  # a layer of one unit
    for axis in new:
        view.note(Role.LINEAR, axis)
    return [Result(tuple(new), tuple(_varies(value, axis) for axis in new))]


def _segments(old: list[Axis], new: list[Axis]) -> list[tuple[list[Axis], list[Axis]]]:
    """Runs of axes, as short as they can be, that have as many entries before as after."""
    found, left, right = [], iter(old), iter(new)
    for first in left:
        xs, ys = [first], list(itertools.islice(right, 1))
        while (a := _entries(xs)) != (b := _entries(ys)):
            more = next(left if a < b else right, None)
            if more is None:  # one of them has no entries at all
                return [(old, new)]
            (xs if a < b else ys).append(more)
        found.append((xs, ys))
    return found


def _entries(axes: list[Axis]) -> int:
    return math.prod(find(axis).size for axis in axes)


def _varies(value: Value, axis: Axis) -> bool:
    """Whether entries differ along an axis that a reshape made."""
    own = _ids(axis)
    return any(v and own & _ids(a) for a, v in zip(value.axes, value.varies, strict=True))


def _ids(axis: Axis) -> set[int]:
    axis = find(axis)
    return {axis.id} if axis.kind is Kind.ATOM else set().union(*map(_ids, axis.parts))


def _picked(view: View, order: list[int]) -> list[Result]:
    value = view.ins[0]
    axes = tuple(value.axes[n] for n in order)
    for axis in axes:
        view.note(Role.LINEAR, axis)
    return [Result(axes, tuple(value.varies[n] for n in order))]


def _transpose(view: View) -> list[Result]:
    return _picked(view, list(view.params["permutation"]))


def _squeeze(view: View) -> list[Result]:
    gone = {n % len(view.ins[0].axes) for n in view.params["dimensions"]}
    return _picked(view, [n for n in range(len(view.ins[0].axes)) if n not in gone])


def _broadcast(view: View) -> list[Result]:
    value = view.ins[0]
    axes, varies = [fresh(n) for n in view.shapes[0]], [False] * len(view.shapes[0])
    for own, at in enumerate(view.params["broadcast_dimensions"]):
        if find(value.axes[own]).size == view.shapes[0][at]:
            axes[at], varies[at] = value.axes[own], value.varies[own]
            view.note(Role.LINEAR, axes[at])
    return [Result(tuple(axes), tuple(varies))]


def _expand(view: View) -> list[Result]:
    kept = iter(range(len(view.ins[0].axes)))
    new = {n % len(view.shapes[0]) for n in view.params["dimensions"]}
    order = [None if n in new else next(kept) for n in range(len(view.shapes[0]))]
    axes = tuple(fresh(1) if n is None else view.ins[0].axes[n] for n in order)
    return [Result(axes, tuple(n is not None and view.ins[0].varies[n] for n in order))]


def _tile(view: View) -> list[Result]:
    axes = []
    for axis, times in zip(view.ins[0].axes, view.params["reps"], strict=True):
        copies = fresh(times)
        view.stay(copies, "copies stand along it")
        axes.append(axis if times == 1 else product([copies, axis]))
    return [Result(tuple(axes))]


def _iota(view: View) -> list[Result]:
    axes, at = tuple(fresh(n) for n in view.shapes[0]), view.params["dimension"]
    view.stay(axes[at], "its positions are counted")
    return [Result(axes, tuple(n == at for n in range(len(axes))))]


def _rev(view: View) -> list[Result]:
    for at in view.params["dimensions"]:
        view.stay(view.ins[0].axes[at], "it is reversed")
    return [Result(view.ins[0].axes, view.ins[0].varies)]


def _named(key: str) -> Any:
    def resized(now: Now) -> dict[str, Any]:
        changed: dict[str, Any] = {key: now.sizes(now.outs[0])}
        if now.op.params.get("sharding") is not None and changed[key] != now.op.params[key]:
            changed["sharding"] = None
        return changed

    return resized


RULES = {
    "reshape": Rule(_reshape, _named("new_sizes")),
    "transpose": Rule(_transpose),
    "squeeze": Rule(_squeeze),
    "expand_dims": Rule(_expand),
    "broadcast_in_dim": Rule(_broadcast, _named("shape")),
    "tile": Rule(_tile),
    "iota": Rule(_iota, _named("shape")),
    "rev": Rule(_rev),
}
