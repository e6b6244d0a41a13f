"""What charts there are of a run's rows, and how each is drawn."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from experiments import methods, table
from experiments.charts import COLOURS, FAINT, INK, KEPT, LINEAR, ON, SOFT, Chart
from experiments.journal import Row
from experiments.layers import BINS

MARKS = "ovsD^dP*XphH<>8"
FIRST = ("threshold", "published_size", "size", "compress", "tolerance", "sequential", "refit")
"""Methods that have the first looks."""
PERCENT = FuncFormatter(lambda share, _: f"{round(100 * share, 3):g}%")
DASHES, DOTTED = (0, (4, 3)), (0, (1, 1.5))
DEEPEST = 10.0  # points below the original: what loses more leaves the picture
SHARES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 0.001, 0.0001)
POINT = 1.0
TIPS = 400  # marks with words: more would make a page slow


def charts(rows: Sequence[Row], by: Collection[str] = table.BY) -> Iterator[Chart]:
    """All charts that the rows allow."""
    found, lines = table.summarise(rows, by), table.flat(rows, by)
    if len(found) < 2 or found["rule"].iloc[0] != "original":
        return
    keys = list(found.columns[: list(found.columns).index("rule")])
    many = "networks" in found
    of = f"means of {int(found['networks'].max())} networks" if many else "one network"
    yield _sizes(found, keys, "share", "accuracy", f"Accuracy against size, {of}")
    if found["FLOPs"].notna().all():
        yield _sizes(found, keys, "FLOPs", "operations", f"Accuracy against operations, {of}")
    if many:
        yield _means(found, keys, "loss", "± loss", LOSSES)
        yield _means(found, keys, f"≤ {POINT:g}", "", WITHIN)
    if (lines["predicted error"].fillna(0) > 0).any():
        yield _errors(lines)
    if many and len(lines) > 3:
        yield _boxes(lines, keys)
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


def _look(rule: str, number: int) -> dict[str, Any]:
    """Colour, mark and style of a line: the rule's own, dotted where a step followed."""
    name, steps = methods.parsed(rule)
    rest = [method for method in methods.METHODS if method not in (*FIRST, "original")]
    place = ([*FIRST, *rest].index(name) if name in (*FIRST, *rest) else 0) + 3 * number
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKS[place % len(MARKS)],
        "linestyle": DOTTED if steps else "-",
    }


def _lines(found: pd.DataFrame, keys: list[str]) -> list[tuple[Any, dict[str, Any], pd.DataFrame]]:
    """By settings and rule its look and its lines, the largest networks first."""
    plain = found[~((found["rule"] == "original") & (found["share"] == 1))]
    parts = plain.groupby([*keys, "rule"], sort=False)
    seen: dict[str, int] = {}
    made = []
    for key, part in parts:
        seen[key[-1]] = number = seen.get(key[-1], -1) + 1
        made.append((key, _look(key[-1], number), part.sort_values("share", ascending=False)))
    return made


def _marks(axes: Axes, x: Any, y: Any, look: dict[str, Any], words: Any, tips: list[str]) -> None:
    """Marks that have words for the pointer."""
    for one, two, said in zip(x, y, words, strict=True):
        (mark,) = axes.plot(one, two, **look | {"linestyle": ""}, markersize=4.5)
        mark.set_gid(f"tip:{len(tips)}")
        tips.append(said)


def _curves(
    axes: Axes, found: pd.DataFrame, keys: list[str], x: str, y: str, tips: list[str],
    error: str = "",
) -> None:  # fmt: skip
    for key, look, part in _lines(found, keys):
        name = name_of(key, keys)
        part = part[part[x] > 0]
        axes.plot(part[x], part[y], **look, linewidth=1.6, markersize=0, label="_")
        bars = part.get(error)
        if bars is not None:
            axes.errorbar(part[x], part[y], bars, ecolor=SOFT, elinewidth=1, fmt="none")
        words = [
            f"{name} {a:g}: {y} {v:.4g}" + (f" ± {bars.iloc[i]:.2g}" if bars is not None else "")
            + f" at {s:.2%}"
            for i, (a, v, s) in enumerate(zip(part["amount"], part[y], part[x], strict=True))
        ]  # fmt: skip
        _marks(axes, part[x], part[y], look, words, tips)
        axes.plot([], [], **look, label=name)


def _size_axis(axes: Axes, smallest: float, label: str) -> None:
    """Shares on a logarithmic axis, shrinking to the right, ticks far enough apart to read."""
    axes.set_xscale("log")
    axes.set_xlim(1.15, smallest / 1.15)
    ticks = [1.0]
    for share in SHARES:
        if smallest / 1.15 <= share <= ticks[-1] * smallest**0.085:
            ticks.append(share)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set_xlabel(label)


LABELS = {"share": "parameters, share of the original's", "FLOPs": "operations, share likewise"}


def _sizes(found: pd.DataFrame, keys: list[str], x: str, name: str, title: str) -> Chart:
    def draw(figure: Figure, tips: list[str]) -> None:
        smallest = found.loc[found[x] > 0, x].min()
        panels = figure.subplots(1, 2)
        original = found.iloc[0]
        for axes, y, heading in zip(
            panels, ("accuracy", "agreement"), ("Test accuracy", "The original's class"),
            strict=True,
        ):  # fmt: skip
            _curves(axes, found, keys, x, y, tips)
            axes.axhline(original[y], color=SOFT, linestyle=DASHES, linewidth=1)
            axes.set_title(heading)
            axes.yaxis.set_major_formatter(PERCENT)
            bottom = max(found[y].min(), original[y] - 2.5 * DEEPEST / 100)
            margin = 0.06 * max(found[y].max() - bottom, 0.01)
            axes.set_ylim(bottom - margin, found[y].max() + margin)
            _size_axis(axes, smallest, LABELS[x])
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=4)

    words = "The dashed line is the original. What falls far below is outside."
    return Chart(name, title, words, draw, (10.0, 4.8), wide=True)


def _means(found: pd.DataFrame, keys: list[str], y: str, error: str, chart: Chart) -> Chart:
    """A chart of means over networks against size; ``chart`` has all but the drawing."""

    def draw(figure: Figure, tips: list[str]) -> None:
        axes = figure.subplots()
        _curves(axes, found, keys, "share", y, tips, error)
        if error:
            axes.axhline(0, color=SOFT, linestyle=DASHES, linewidth=1)
            axes.set_ylim(min(found[y].min(), 0) - 0.3, min(found[y].max() + 1, DEEPEST))
        else:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PERCENT)
        _size_axis(axes, found.loc[found["share"] > 0, "share"].min(), LABELS["share"])
        axes.legend()

    return chart._replace(draw=draw)


LOSSES = Chart(
    "losses",
    "Loss of accuracy against size, points",
    "Means over tasks and seeds; bars are standard errors of the difference from the "
    f"original. What loses more than {DEEPEST:g} points is outside.",
)
WITHIN = Chart(
    "within",
    "Networks that lose at most one point",
    "Share of the networks whose accuracy is within one point of the original's.",
)


def _errors(lines: pd.DataFrame) -> Chart:
    def draw(figure: Figure, tips: list[str]) -> None:
        axes = figure.subplots()
        some = lines[(lines["predicted error"].fillna(0) > 0) & (lines["measured error"] > 0)]
        x, y = some["predicted error"].astype(float), some["measured error"].astype(float)
        ends = [min(x.min(), y.min()) / 1.2, max(x.max(), y.max()) * 1.2]
        axes.plot(ends, ends, color=SOFT, linestyle=DASHES, linewidth=1)
        for rule, part in some.groupby("rule", sort=False):
            look, places = _look(rule, 0) | {"linestyle": ""}, part.index
            words = [f"{name_of((rule,))} {a:g}: predicted {p:.4f}, measured {m:.4f}"
                     for a, p, m in zip(part["amount"], x[places], y[places],
                                        strict=True)]  # fmt: skip
            if len(some) <= TIPS:
                _marks(axes, x[places], y[places], look, words, tips)
                axes.plot([], [], **look, label=name_of((rule,)))
            else:
                axes.plot(x[places], y[places], **look, markersize=3, label=name_of((rule,)))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("predicted relative error")
        axes.set_title("measured relative error")
        axes.legend()

    words = (
        "Relative error of the outputs: predicted on the calibration rows, measured on test "
        "rows. On the dashed line they are equal."
    )
    return Chart("errors", "Predicted and measured error", words, draw)


def _boxes(lines: pd.DataFrame, keys: list[str]) -> Chart:
    plain = lines[~((lines["rule"] == "original") & (lines["share"] == 1))]
    parts = list(plain.groupby([*keys, "rule", "amount"], sort=False))

    def draw(figure: Figure, tips: list[str]) -> None:
        axes = figure.subplots()
        names = [f"{name_of(key[:-1], keys)} {key[-1]:g}" for key, _ in parts]
        drawn = axes.boxplot(
            [part["loss"].to_numpy() for _, part in parts], orientation="horizontal",
            tick_labels=names, patch_artist=True, flierprops={"markersize": 3},
        )  # fmt: skip
        for box, (key, _) in zip(drawn["boxes"], parts, strict=True):
            box.set(facecolor=_look(key[-2], 0)["color"], alpha=0.5)
        for line in drawn["medians"]:
            line.set_color(INK)
        axes.set_xlim(max(plain["loss"].min() - 1, -DEEPEST), min(plain["loss"].max() + 1, 40))
        axes.invert_yaxis()
        axes.set_xlabel("loss of accuracy, points")

    words = "Median, quartiles, whiskers of one and a half times their distance."
    size = (9.0, 1.2 + 0.26 * len(parts))
    return Chart("boxes", "Loss of accuracy over tasks and seeds", words, draw, size, wide=True)


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
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3)

    words = (
        "For each rule the smallest size that loses at most a point, else the best: units kept of "
        "all, + linear units, via the rank of a bottleneck."
    )
    size = (4.2 * columns, (0.3 * depths.pop() + 0.9) * lines + 0.5)
    yield Chart("widths", "Units in each layer", words, draw, size, wide=True)


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
            total = max(counts.sum(), 1)
            axes.set_title(f"{name}, {total:.4g} units", size=9)
            axes.set_xlabel(
                f"{counts[0] / total:.0%} rarely, {counts[-1] / total:.0%} nearly always", size=8
            )
            axes.xaxis.set_major_formatter(PERCENT)

    words = "How many units are on, for which share of the calibration rows."
    size = (2.6 * columns, 2.1 * lines + 0.3)
    yield Chart("rates", "Activation rates", words, draw, size, wide=True)
