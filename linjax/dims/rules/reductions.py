"""Operations that sum over axes, or look around along them."""

from linjax.dims.rules.rule import Result, Rule, View, fresh
from linjax.dims.space import find
from linjax.dims.values import Role


def _reduce(view: View) -> list[Result]:
    gone, summed = view.params["axes"], view.op.name == "reduce_sum"
    for value in view.ins:
        for n in gone:
            if summed:
                view.note(Role.SUMMED, value.axes[n], 0)
                view.weigh(value.axes[n])
            elif find(value.axes[n]).size > 1:
                view.stay(value.axes[n])
    kept = [n for n in range(len(view.ins[0].axes)) if n not in gone]
    axes = tuple(view.ins[0].axes[n] for n in kept)
    for axis in axes:
        view.note(Role.LINEAR if summed else Role.POOLED, axis)
    return [Result(axes, tuple(view.ins[0].varies[n] for n in kept)) for _ in view.shapes]


def _window(view: View) -> list[Result]:
    """Windows of one entry along an axis leave it alone."""
    summed = view.op.name == "reduce_window_sum"
    rank = len(view.shapes[0])
    window = view.params.get("window_dimensions", (1,) * rank)
    axes = []
    for n, size in enumerate(view.shapes[0]):
        axis = view.ins[0].axes[n]
        moved = (
            window[n] != 1 or find(axis).size != size or any(x[n] != 1 for x in _steps(view, rank))
        )
        if moved:
            view.stay(axis, "a place in space")
            axis = fresh(size)
            view.stay(axis, "a place in space")
        view.note(Role.LINEAR if summed else Role.POOLED, axis)
        axes.append(axis)
    return [Result(tuple(axes)) for _ in view.shapes]


def _steps(view: View, rank: int) -> list[tuple[int, ...]]:
    names = ("window_strides", "base_dilation", "window_dilation")
    return [view.params.get(name) or (1,) * rank for name in names]


def _running(view: View) -> list[Result]:
    """Along one axis entries depend on those before them."""
    view.stay(view.ins[0].axes[view.params["axis"]])
    for n, axis in enumerate(view.ins[0].axes):
        if n != view.params["axis"]:
            view.note(Role.LINEAR if view.op.name == "cumsum" else Role.POOLED, axis)
    return [Result(view.ins[0].axes)]


def _sort(view: View) -> list[Result]:
    at = view.params["dimension"]
    for value in view.ins:
        view.stay(value.axes[at])
        for axis in value.axes:
            view.note(Role.POOLED, axis)
    return [Result(value.axes) for value in view.ins]


def _top(view: View) -> list[Result]:
    results = []
    for shape in view.shapes:
        axes = list(view.ins[0].axes)
        view.stay(axes[-1])
        axes[-1] = fresh(shape[-1])
        view.stay(axes[-1])
        results.append(Result(tuple(axes)))
    for axis in view.ins[0].axes:
        view.note(Role.POOLED, axis)
    return results


def _fourier(view: View) -> list[Result]:
    axes = list(view.ins[0].axes)
    for n in range(len(axes) - len(view.params["fft_lengths"]), len(axes)):
        view.stay(axes[n])
        axes[n] = fresh(view.shapes[0][n])
        view.stay(axes[n])
    for axis in axes:
        view.note(Role.LINEAR, axis)
    return [Result(tuple(axes))]


_REDUCE = (
    "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor"
)
_WINDOW = "reduce_window_max reduce_window_min reduce_window_sum"
_RUNNING = "cumlogsumexp cummax cummin cumprod cumsum"

RULES = {
    **{name: Rule(_reduce) for name in _REDUCE.split()},
    **{name: Rule(_window) for name in _WINDOW.split()},
    **{name: Rule(_running) for name in _RUNNING.split()},
    "sort": Rule(_sort),
    "top_k": Rule(_top),
    "fft": Rule(_fourier),
}
