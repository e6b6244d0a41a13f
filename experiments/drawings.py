"""What charts there are of a run's rows, and how each is drawn."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments import methods, table
from experiments.charts import COLOURS, FAINT, KEPT, LINEAR, ON, SOFT, Chart
from experiments.journal import Row
from experiments.layers import BINS

MARKS = "ovsD^dP*XphH<>8x"
PERCENT = FuncFormatter(lambda share, _: f"{round(100 * share, 3):g}%")
DASHES, DOTTED = (0, (4, 3)), (0, (1, 1.5))
POINT = 1.0
TIPS = 400  # marks with words: more would make a page slow


def charts(rows: Sequence[Row], by: Collection[str] = table.BY) -> Iterator[Chart]:
    """All charts that the rows allow."""
    found, lines = table.summarise(rows, by), table.flat(rows, by)
    if len(found) < 2 or found["rule"].iloc[0] != "original":
        return
    many = "networks" in found
    of = f"means of {int(found['networks'].max())} networks" if many else "one network"
    yield _curves(found, "share", RIGHT, "accuracy", f"Accuracy against size, {of}")
    if found["FLOPs"].notna().all():
        yield _curves(found, "FLOPs", RIGHT, "operations", f"Accuracy against operations, {of}")
    for name in [name for name in found if name.startswith("speed, ")][-1:]:  # of large batches
        title = f"Accuracy against latency, calls of {name.removeprefix('speed, ')} rows, {of}"
        yield _curves(found.assign(latency=1 / found[name]), "latency", RIGHT, "latency", title)
    if many:
        yield _curves(found, "share", LOST, "losses", f"Loss of accuracy against size, {of}")
    if (lines["predicted error"].fillna(0) > 0).any():
        yield _errors(lines)
    yield from _layers(rows)
    yield from _rates(rows)


def name_of(key: Sequence[Any], keys: Sequence[str] = ()) -> str:
    """A line's name: its settings and its rule.

    >>> name_of((0.25, "published_size"), ["pruning.share"])
    'published size, share 0.25'
    """
    *settings, rule = key
    named = zip(keys, settings, strict=False)
    more = [f"{name.rpartition('.')[2]} {value}" for name, value in named if value]
    return ", ".join([rule.replace("_", " "), *more])


def _look(rule: str, others: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Colour, mark and style of a line: the rule's own, if no other has it; dotted after a step."""
    name, steps = methods.parsed(rule)
    own, style = list(methods.METHODS).index(name) - 1, DOTTED if steps else "-"
    taken = [look["color"] for look in others if look["linestyle"] == style]
    places = [n % len(COLOURS) for n in range(own, own + len(COLOURS))]
    place = next((n for n in places if COLOURS[n] not in taken), places[0])
    return {"color": COLOURS[place], "marker": MARKS[place], "linestyle": style}


def _marks(axes: Axes, x: Any, y: Any, look: dict[str, Any], words: Any, tips: list[str]) -> None:
    """Marks that have words for the pointer."""
    for one, two, said in zip(x, y, words, strict=True):
        (mark,) = axes.plot(one, two, **look | {"linestyle": ""}, markersize=4.5)
        mark.set_gid(f"tip:{len(tips)}")
        tips.append(said)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


class Panel(NamedTuple):
    """What a panel has against size: a column of the table and its title; how far below the
    original's the picture goes, or above where that is negative; the column of standard errors."""

    y: str
    title: str
    deep: float
    error: str = ""


RIGHT = Panel("accuracy", "Test accuracy", 0.25), Panel("agreement", "The original's class", 0.25)
LOST = (
    Panel("loss", "Points lost, with standard errors", -10.0, "± loss"),
    Panel(f"≤ {POINT:g}", "Share of networks that lose at most a point", 1.0),
)
LABELS = {"share": "parameters, share of the original's", "FLOPs": "operations, share likewise",
          "latency": "time of a call, share likewise"}  # fmt: skip


def _curves(found: pd.DataFrame, x: str, panels: Sequence[Panel], name: str, title: str) -> Chart:
    keys = list(found.columns[: list(found.columns).index("rule")])
    original = found.iloc[0]
    plain = found[~((found["rule"] == "original") & (found["share"] == 1)) & (found[x] > 0)]
    groups = [(key, part.sort_values("share", ascending=False))
              for key, part in plain.groupby([*keys, "rule"], sort=False)]  # fmt: skip
    looks = list[dict[str, Any]]()
    for key, _ in groups:
        looks.append(_look(key[-1], looks))

    def panel(axes: Axes, own: Panel, tips: list[str]) -> None:
        for (key, part), look in zip(groups, looks, strict=True):
            label, y = name_of(key, keys), part[own.y]
            bars = part[own.error] if own.error else 0 * y
            axes.errorbar(part[x], y, bars, **look | {"marker": ""}, elinewidth=1, ecolor=SOFT)
            words = [
                f"{label} {amount:g}: {own.y} {value:.4g}"
                + (f" ± {bar:.2g}" if own.error else "") + f" at {size:.2%}"
                for amount, value, bar, size in zip(part["amount"], y, bars, part[x], strict=True)
            ]  # fmt: skip
            _marks(axes, part[x], y, look, words, tips)
            axes.plot([], [], **look, label=label)
        axes.axhline(original[own.y], color=SOFT, linestyle=DASHES, linewidth=1)
        axes.set_title(own.title)
        bars = found[own.error].fillna(0) if own.error else 0
        low, high = (found[own.y] - bars).min(), (found[own.y] + bars).max()
        end = original[own.y] - own.deep
        low, high = (max(low, end), high) if own.deep > 0 else (low, min(high, end))
        axes.set_ylim(low - 0.06 * (high - low) - 1e-3, high + 0.06 * (high - low) + 1e-3)
        if own.deep > 0:
            axes.yaxis.set_major_formatter(PERCENT)
        least = plain[x].min()
        axes.set_xscale("log")
        axes.set_xlim(1.15 * max(1.0, plain[x].max()), least / 1.15)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2.5, 5) if least > 0.02 else (1, 2.5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(PERCENT)
        axes.set_xlabel(LABELS[x])

    def draw(figure: Figure, tips: list[str]) -> None:
        drawn = figure.subplots(1, len(panels))
        for axes, own in zip(drawn, panels, strict=True):
            panel(axes, own, tips)
        _legend(figure, drawn[0], 4)

    words = "The dashed line is the original. What falls far below is outside."
    return Chart(name, title, words, draw, (10.0, 4.8))


def _errors(lines: pd.DataFrame) -> Chart:
    def draw(figure: Figure, tips: list[str]) -> None:
        axes = figure.subplots()
        some = lines[(lines["predicted error"].fillna(0) > 0) & (lines["measured error"] > 0)]
        x, y = some["predicted error"].astype(float), some["measured error"].astype(float)
        ends = [min(x.min(), y.min()) / 1.2, max(x.max(), y.max()) * 1.2]
        axes.plot(ends, ends, color=SOFT, linestyle=DASHES, linewidth=1)
        for rule, part in some.groupby("rule", sort=False):
            look, label = _look(rule) | {"linestyle": ""}, name_of((rule,))
            places = part.index
            words = [f"{label} {a:g}: predicted {p:.4f}, measured {m:.4f}"
                     for a, p, m in zip(part["amount"], x[places], y[places],
                                        strict=True)]  # fmt: skip
            axes.plot(x[places], y[places], **look, markersize=3, label=label)
            if len(some) <= TIPS:
                _marks(axes, x[places], y[places], look, words, tips)
        axes.loglog()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter("{x:g}")
        axes.set_xlabel("predicted relative error")
        axes.set_title("measured relative error")
        axes.legend()

    words = (
        "Relative error of the outputs: predicted on the calibration rows, measured on test "
        "rows. On the dashed line they are equal."
    )
    return Chart("errors", "Predicted and measured error", words, draw)


def smallest_good(rows: Sequence[tuple[Row, Row]]) -> list[tuple[Row, Row]]:
    """Of a rule's rows those of the smallest amount that loses at most a point, else the best."""
    amounts: dict[float, list[tuple[Row, Row]]] = {}
    for pair in rows:
        amounts.setdefault(pair[1]["amount"], []).append(pair)

    def loss(pairs: list[tuple[Row, Row]]) -> float:
        return 100 * float(np.mean([b["accuracy"] - a["accuracy"] for b, a in pairs]))

    fine = [own for own in amounts.values() if loss(own) <= POINT + table.ROUNDING]
    if fine:
        return min(fine, key=lambda own: np.mean([a["parameters"] for _, a in own]))
    return min(amounts.values(), key=loss)


def _layers(rows: Sequence[Row]) -> Iterator[Chart]:
    by_rule: dict[str, list[tuple[Row, Row]]] = {}
    for before, after in table.pairs(rows):
        plain = not after["task"].get("pruning.share", 0.0)
        if plain and after["rule"] != "original" and before["layers"] == after["layers"]:
            by_rule.setdefault(after["rule"], []).append((before, after))
    depths = {len(before["layers"]) for own in by_rule.values() for before, _ in own}
    if len(depths) != 1 or depths == {0}:
        return
    chosen = {rule: smallest_good(by_rule[rule]) for rule in sorted(by_rule, key=methods.place)}
    columns = min(3, len(chosen))
    lines = -(-len(chosen) // columns)

    def draw(figure: Figure, tips: list[str]) -> None:
        panels = _panels(figure, len(chosen), columns, sharey=True)
        for axes, (rule, own) in zip(panels, chosen.items(), strict=True):
            _widths(axes, rule, own)
        _legend(figure, panels[0], 3)

    words = (
        "For each rule the smallest size that loses at most a point, else the best: units kept of "
        "all, + linear units, via the rank of a bottleneck."
    )
    size = (4.2 * columns, (0.3 * depths.pop() + 0.9) * lines + 0.5)
    yield Chart("widths", "Units in each layer", words, draw, size)


def _panels(figure: Figure, count: int, columns: int, **shared: Any) -> list[Axes]:
    """So many axes in rows; what is left over of the last row stays empty."""
    found = list(figure.subplots(-(-count // columns), columns, squeeze=False, **shared).flat)
    for axes in found[count:]:
        axes.set_axis_off()
    return found[:count]


def _widths(axes: Axes, rule: str, own: list[tuple[Row, Row]]) -> None:
    def mean(which: int, field: str) -> np.ndarray:
        return np.mean([pair[which][field] for pair in own], axis=0)

    before, kept, linear = mean(0, "units"), mean(1, "units"), mean(1, "linear")
    rank, names = mean(1, "bottleneck"), own[0][0]["layers"]
    places = np.arange(len(names))
    axes.barh(places, before, height=0.72, color=FAINT, label="removed")
    axes.barh(places, kept, height=0.72, color=KEPT, label="kept with activation")
    axes.barh(places, linear, left=kept, height=0.72, color=LINEAR, label="linear")
    for i in places:
        said = f"{kept[i]:.4g} of {before[i]:.4g}"
        said += f" + {linear[i]:.3g}" if linear[i] else ""
        said += f" via {rank[i]:.3g}" if rank[i] else ""
        end = max(before[i], kept[i] + linear[i])
        axes.annotate(said, (end, i), (4, 0), textcoords="offset points", va="center", size=8.5)
    share, loss = (float(np.mean(v)) for v in (
        [a["parameters"] / b["parameters"] for b, a in own],
        [100 * (b["accuracy"] - a["accuracy"]) for b, a in own],
    ))  # fmt: skip
    change = f"loses {loss:.2f} points" if loss >= 0 else f"gains {-loss:.2f} points"
    axes.set_title(f"{name_of((rule,))} {own[0][1]['amount']:g}: {share:.1%}, {change}", size=9)
    axes.set_xlim(0, 1.9 * before.max())
    axes.grid(False, axis="y")
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _rates(rows: Sequence[Row]) -> Iterator[Chart]:
    own = [before for before, after in table.pairs(rows) if before is after and before.get("rates")]
    if not own or len({tuple(row["rates"]) for row in own}) != 1:
        return
    means = {name: np.mean([r["rates"][name] for r in own], axis=0) for name in own[0]["rates"]}
    columns = min(4, len(means))
    lines = -(-len(means) // columns)

    def draw(figure: Figure, tips: list[str]) -> None:
        panels = _panels(figure, len(means), columns, sharex=True)
        for axes, (name, counts) in zip(panels, means.items(), strict=True):
            edges = np.arange(BINS) / BINS
            colour = [SOFT, *[LINEAR] * (BINS - 2), ON]
            axes.bar(edges, counts, width=0.92 / BINS, align="edge", color=colour)
            axes.locator_params(axis="y", integer=True)
            total = max(counts.sum(), 1)
            axes.set_title(f"{name}, {total:.4g} units", size=9)
            axes.set_xlabel(
                f"{counts[0] / total:.0%} rarely, {counts[-1] / total:.0%} nearly always", size=8
            )
            axes.xaxis.set_major_formatter(PERCENT)

    words = "How many units are on, for which share of the calibration rows."
    size = (2.6 * columns, 2.1 * lines + 0.3)
    yield Chart("rates", "Activation rates", words, draw, size)
