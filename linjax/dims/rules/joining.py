"""Operations that put axes side by side, and cut them: sums of dimensions."""

from typing import Any

from linjax.dims.rules.rule import Now, Result, Rule, View, fresh
from linjax.dims.space import find, run, total, unify
from linjax.dims.values import Role


def _concatenate(view: View) -> list[Result]:
    at, first = view.params["dimension"], view.ins[0]
    for value in view.ins[1:]:
        for n, axis in enumerate(value.axes):
            if n != at:
                unify(first.axes[n], axis)
    joined = total([v.axes[at] for v in view.ins])
    axes = tuple(joined if n == at else axis for n, axis in enumerate(first.axes))
    for n, axis in enumerate(axes):
        view.note(
            Role.LINEAR if n == at else view.joined(*((k, n) for k in range(len(view.ins)))), axis
        )
    return [Result(axes)]


def _stack(view: View) -> list[Result]:
    at, first = view.params["axis"], view.ins[0]
    for value in view.ins[1:]:
        for own, other in zip(first.axes, value.axes, strict=True):
            unify(own, other)
    for n, axis in enumerate(first.axes):
        view.note(view.joined(*((k, n) for k in range(len(view.ins)))), axis)
    axes, varies = (
        list(first.axes),
        [any(v) for v in zip(*(x.varies for x in view.ins), strict=True)],
    )
    axes.insert(at, fresh(len(view.ins)))
    view.stay(axes[at], "values are stacked along it")
    varies.insert(at, True)
    return [Result(tuple(axes), tuple(varies))]


def _slice(view: View) -> list[Result]:
    value, axes = view.ins[0], []
    strides = view.params["strides"] or (1,) * len(value.axes)
    bounds = zip(view.params["start_indices"], view.params["limit_indices"], strides, strict=True)
    for axis, (start, stop, stride) in zip(value.axes, bounds, strict=True):
        if stride != 1 or stop <= start:
            view.stay(axis, "only some of its entries are taken")
            axes.append(fresh(-(-max(stop - start, 0) // stride)))
            view.stay(axes[-1], "only some of its entries are taken")
        else:
            axes.append(run(axis, start, stop))
        view.note(Role.LINEAR, axes[-1])
    return [Result(tuple(axes), value.varies)]


def _cut(now: Now) -> dict[str, Any]:
    starts, stops = [], []
    strides = now.op.params["strides"] or (1,) * len(now.ins[0])
    given = zip(
        now.op.params["start_indices"], now.op.params["limit_indices"], strides, strict=True
    )
    for axis, (start, stop, stride) in zip(now.ins[0], given, strict=True):
        starts.append(start if stride != 1 else now.point(axis, start))
        stops.append(stop if stride != 1 else now.point(axis, stop))
    return {"start_indices": tuple(starts), "limit_indices": tuple(stops)}


def _split(view: View) -> list[Result]:
    value, at, start, results = view.ins[0], view.params["axis"], 0, []
    for size in view.params["sizes"]:
        part = run(value.axes[at], start, start + size)
        axes = tuple(part if n == at else axis for n, axis in enumerate(value.axes))
        results.append(Result(axes, value.varies))
        start += size
        for axis in axes:
            view.note(Role.LINEAR, axis)
    return results


def _shares(now: Now) -> dict[str, Any]:
    at = now.op.params["axis"]
    return {"sizes": tuple(now.size(axes[at]) for axes in now.outs)}


def _pad(view: View) -> list[Result]:
    value, axes = view.ins[0], []
    config = view.params["padding_config"]
    for n, (axis, (low, high, inner)) in enumerate(zip(value.axes, config, strict=True)):
        others = any(pads != (0, 0, 0) for pads in (*config[:n], *config[n + 1 :]))
        lifted = others and view.lifted(n, find(axis).size, (0, 1))
        if inner or low < 0 or high < 0:
            view.stay(axis, "entries are put between its own")
            size = find(axis).size
            axes.append(fresh(low + high + size + inner * max(size - 1, 0)))
            view.stay(axes[-1], "entries are put between its own")
            continue
        parts = [*([fresh(low)] if low else []), axis, *([fresh(high)] if high else [])]
        axes.append(total(parts))
        view.note(Role.SCALED if lifted else Role.LINEAR, axis)
    return [Result(tuple(axes))]


def _padding(now: Now) -> dict[str, Any]:
    config = []
    for own, out, (low, high, inner) in zip(
        now.ins[0], now.outs[0], now.op.params["padding_config"], strict=True
    ):
        if (low or high) and not inner and low >= 0 and high >= 0:
            front = now.point(out, low)
            low, high = front, now.size(out) - front - now.size(own)
        config.append((low, high, inner))
    return {"padding_config": tuple(config)}


RULES = {
    "concatenate": Rule(_concatenate),
    "stack": Rule(_stack),
    "slice": Rule(_slice, _cut),
    "split": Rule(_split, _shares),
    "pad": Rule(_pad, _padding),
}
