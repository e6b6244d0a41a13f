"""The drawings of a report."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.report import svg
from experiments.report.svg import Scale

LEFT, RIGHT, TOP, BOTTOM = 58.0, 14.0, 12.0, 44.0


class Point(NamedTuple):
    """A point with its error bar, and words for the pointer."""

    x: float
    y: float
    error: float = 0.0
    words: str = ""


class Series(NamedTuple):
    """Points of one kind; ``look`` chooses colour and mark."""

    name: str
    look: int
    points: Sequence[Point]
    joined: bool = True


class Axis(NamedTuple):
    """An axis: its label, how its numbers are written, and whether it is logarithmic."""

    label: str
    write: Callable[[float], str]
    log: bool = False
    low: float | None = None
    high: float | None = None


def percent(share: float) -> str:
    """A share as people write it.

    >>> percent(0.5), percent(0.025)
    ('50%', '2.5%')
    """
    return f"{round(100 * share, 3):g}%"


def legend(names: Sequence[tuple[str, int]]) -> str:
    """What the colours and marks mean."""
    keys = "".join(
        f'<span><svg class="key" viewBox="0 0 14 14">{svg.mark(7, 7, look)}</svg>{name}</span>'
        for name, look in names
    )
    return f'<p class="legend">{keys}</p>'


def plot(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    words: str,
    reference: float | None = None,
    diagonal: bool = False,
    size: tuple[float, float] = (620.0, 340.0),
) -> str:
    """Points, joined by lines where that makes sense, with error bars."""
    width, height = size
    points = [p for s in series for p in s.points]
    across = _scale(x, [p.x for p in points], LEFT, width - RIGHT)
    heights = [v for p in points for v in (p.y - p.error, p.y + p.error)]
    up = _scale(y, [*heights, *([] if reference is None else [reference])], height - BOTTOM, TOP)
    parts = _frame(x, y, across, up, width, height)
    if reference is not None:
        parts.append(svg.line(LEFT, up(reference), width - RIGHT, up(reference), "reference"))
    if diagonal:
        ends = max(across.low, up.low), min(across.high, up.high)
        (x1, y1), (x2, y2) = ((across(end), up(end)) for end in ends)
        parts.append(svg.line(x1, y1, x2, y2, "reference"))
    for one in series:
        inside = [p for p in one.points if up.low <= p.y <= up.high]
        if one.joined and len(inside) > 1:
            parts.append(svg.path([(across(p.x), up(p.y)) for p in inside], one.look))
        for p in inside:
            if p.error:
                low, high = (max(min(p.y + s * p.error, up.high), up.low) for s in (-1, 1))
                parts.append(svg.line(across(p.x), up(low), across(p.x), up(high), "bar"))
        parts += [svg.mark(across(p.x), up(p.y), one.look, p.words) for p in inside]
    return svg.drawing(parts, width, height, words)


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
    low = min(values) if axis.low is None else axis.low
    high = max(values) if axis.high is None else axis.high
    if axis.log:
        low, high = low / 1.15 if axis.low is None else low, high * 1.15
        return Scale(low, high, start, end, True)
    margin = 0.05 * (high - low) or 0.01
    return Scale(
        low - margin if axis.low is None else low,
        high + margin if axis.high is None else high,
        start,
        end,
    )


def _frame(x: Axis, y: Axis, across: Scale, up: Scale, width: float, height: float) -> list[str]:
    parts = []
    base = height - BOTTOM
    for tick in _ticks(y, up):
        parts.append(svg.line(LEFT, up(tick), width - RIGHT, up(tick), "grid"))
        parts.append(svg.text(LEFT - 6, up(tick) + 4, y.write(tick), "end", "tick"))
    for tick in _ticks(x, across):
        parts.append(svg.line(across(tick), base, across(tick), base + 4, "axis"))
        parts.append(svg.text(across(tick), base + 17, x.write(tick), "middle", "tick"))
    parts.append(svg.line(LEFT, base, width - RIGHT, base, "axis"))
    parts.append(svg.text((LEFT + width - RIGHT) / 2, height - 6, x.label, "middle"))
    parts.append(svg.text(13, (TOP + base) / 2, y.label, "middle", "label", -90))
    return parts


def _ticks(axis: Axis, scale: Scale) -> list[float]:
    return svg.decades(scale.low, scale.high) if axis.log else svg.ticks(scale.low, scale.high)


class Box(NamedTuple):
    """A row of a box plot."""

    label: str
    look: int
    values: Sequence[float]


def boxes(rows: Sequence[Box], axis: Axis, words: str, width: float = 620.0) -> str:
    """Box plots, one below the other: median, quartiles, whiskers of 1.5 times their distance."""
    step, left = 22.0, 230.0
    height = TOP + step * len(rows) + BOTTOM
    values = [v for row in rows for v in row.values]
    across = _scale(axis, values, left, width - RIGHT)
    base = height - BOTTOM
    parts = []
    for tick in _ticks(axis, across):
        parts.append(svg.line(across(tick), TOP, across(tick), base, "grid"))
        parts.append(svg.text(across(tick), base + 17, axis.write(tick), "middle", "tick"))
    parts.append(svg.text((left + width) / 2, height - 6, axis.label, "middle"))
    for index, row in enumerate(rows):
        y = TOP + step * (index + 0.5)
        parts.append(svg.text(left - 8, y + 4, row.label, "end", "tick"))
        parts += _box(row, across, y)
    return svg.drawing(parts, width, height, words)


def _box(row: Box, across: Scale, y: float) -> list[str]:
    values = np.sort(np.asarray(row.values, float))
    first, middle, third = np.quantile(values, (0.25, 0.5, 0.75))
    reach = 1.5 * (third - first)
    near = values[(values >= first - reach) & (values <= third + reach)]
    words = f"{row.label}: median {middle:.3g}, quartiles {first:.3g} and {third:.3g}"

    def at(value: float) -> float:
        return across(min(max(value, across.low), across.high))

    far = values[((values < near[0]) | (values > near[-1]))]
    return [
        svg.line(at(near[0]), y, at(near[-1]), y, "whisker"),
        svg.rectangle(at(first), y - 7, at(third) - at(first), 14, f"box c{row.look}", words),
        svg.line(at(middle), y - 7, at(middle), y + 7, "median"),
        *(svg.mark(at(v), y, row.look, f"{row.label}: {v:.3g}", 2.2) for v in far),
    ]


class Layer(NamedTuple):
    """What became of a layer's units, in mean numbers."""

    name: str
    units: float
    kept: float
    linear: float
    bottleneck: float


def layers(rows: Sequence[Layer], words: str, width: float = 480.0) -> str:
    """Bars of a network's layers: kept with activation, linear, removed."""
    step, left, right = 24.0, 84.0, 170.0
    height = TOP + step * len(rows) + 10
    most = max(max(row.units, row.kept + row.linear) for row in rows)
    across = Scale(0, most or 1, left, width - right)
    parts = []
    for index, row in enumerate(rows):
        y = TOP + step * index
        parts.append(svg.text(left - 8, y + 13, row.name, "end", "tick"))
        ends = (0.0, row.kept, row.kept + row.linear, max(row.units, row.kept + row.linear))
        kinds = zip(("kept", "linear", "removed"), ends, ends[1:], strict=False)
        for kind, low, high in kinds:
            note = f"{row.name}: {high - low:.3g} of {row.units:.4g} {kind}"
            if high > low:
                parts.append(
                    svg.rectangle(across(low), y, across(high) - across(low), 17, kind, note)
                )
        note = f"{_short(row.kept)} of {_short(row.units)}"
        note += f" + {_short(row.linear)}" if row.linear else ""
        note += f" via {_short(row.bottleneck)}" if row.bottleneck else ""
        parts.append(svg.text(width - right + 8, y + 13, note, "start", "tick"))
    return svg.drawing(parts, width, height, words)


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 or number == round(number) else f"{number:.1f}"


def histogram(counts: Sequence[float], name: str, width: float = 200.0) -> str:
    """How many units of a layer are on how often."""
    height, base = 110.0, 84.0
    across = Scale(0, len(counts), 12, width - 6)
    up = Scale(0, max(max(counts), 1), base, 20)
    total = sum(counts)
    parts = [svg.text(12, 12, f"{name}: {total:,.0f} units", "start", "tick")]
    for index, count in enumerate(counts):
        x = across(index)
        low, high = index / len(counts), (index + 1) / len(counts)
        note = f"{count:.4g} units on {percent(low)} to {percent(high)} of the rows"
        parts.append(
            svg.rectangle(
                x + 0.5, up(count), across(index + 1) - x - 1, base - up(count), "on", note
            )
        )
    parts.append(svg.line(12, base, width - 6, base, "axis"))
    for share in (0, 0.5, 1):
        place = across(share * len(counts))
        anchor = {0: "start", 0.5: "middle", 1: "end"}[share]
        parts.append(svg.text(place, base + 15, percent(share), anchor, "tick"))
    return svg.drawing(parts, width, height, f"Activation rates of the units of {name}")
