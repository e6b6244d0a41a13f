"""Pictures of a run, drawn from its rows; colours that colour-blind readers can tell apart."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, StrMethodFormatter

from experiments import rules
from experiments.results import Row

INK, GREY, FAINT = "#222222", "#7A7A7A", "#D9D9D9"
# Okabe & Ito's palette, a marker beside each colour.
LOOKS = {
    "threshold": ("#D55E00", "o"),
    "published_size": ("#E69F00", "v"),
    "size": ("#0072B2", "s"),
    "compress": ("#009E73", "D"),
    "tolerance": ("#CC79A7", "^"),
    "sequential": ("#56B4E9", "d"),
    "refit": ("#9C5A1A", "P"),
    "balf": ("#5B2A86", "*"),
    "alds": ("#A65E9A", "1"),
    "modegpt": ("#B8860B", "2"),
    "slicegpt": ("#C71585", "+"),
    "replaceme": ("#CD5C5C", "4"),
    "model_folding": ("#6B8E23", "3"),
    "whitened_svd": ("#7A6FB3", "X"),
    "svd": ("#B8A9D9", "x"),
    "magnitude": ("#8A8A8A", "<"),
    "activity": ("#B5B5B5", ">"),
    "original": (GREY, "."),
}
OURS = ("threshold", "published_size", "size", "compress", "tolerance")
DOTTED = (0, (1, 1.5))
KEPT, LINEAR, ON = "#0072B2", "#56B4E9", "#D55E00"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#EBEBEB",
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "figure.titlesize": 12,
    "savefig.dpi": 150,
}
PERCENT = FuncFormatter(lambda share, _: f"{round(100 * share, 3):g}%")
DASHES = (0, (4, 3))
DEEPEST = 0.25  # below the original by more, a line leaves the picture
SHARES = (0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 0.001, 0.0001)


def write(
    folder: pathlib.Path, rows: list[Row], rates: dict[str, np.ndarray], heading: str
) -> list[pathlib.Path]:
    """Draws all pictures that the rows allow, and returns their files.

    Args:
      folder: where to put them.
      rows: finished rows, the original's first.
      rates: activation rates of the units, by layer.
      heading: data set and network, for the titles.
    """
    drawings: dict[str, Callable[[], Figure]] = {
        "accuracy": lambda: accuracy_against_size(rows, heading),
        "rates": lambda: activation_rates(rates, heading),
        "widths": lambda: widths_before_and_after(rows, heading),
    }
    if any(row.get("predicted") for row in rows):
        drawings["errors"] = lambda: predicted_against_measured(rows, heading)
    if any(row["rule"] == "threshold" for row in rows):
        drawings["thresholds"] = lambda: weights_against_threshold(rows, heading)
    written = []
    with matplotlib.rc_context(STYLE):
        for name, draw in drawings.items():
            written.append(folder / f"{name}.png")
            draw().savefig(written[-1])
    return written


def write_means(folder: pathlib.Path, rows: list[Row], heading: str) -> list[pathlib.Path]:
    """Draws means over runs against the shares of parameters and of operations.

    Args:
      folder: where to put the pictures.
      rows: ``rule``, ``share``, ``flops``, ``accuracy``, ``agreement``; the original's first.
      heading: for the titles.
    """
    written = []
    with matplotlib.rc_context(STYLE):
        for name, share, of in (
            ("parameters", "share", "Parameters"),
            ("operations", "flops", "Operations"),
        ):
            written.append(folder / f"{name}.png")
            accuracy_against_size(rows, heading, share, of).savefig(written[-1])
    return written


def accuracy_against_size(
    rows: list[Row], heading: str, share: str = "share", of: str = "Parameters"
) -> Figure:
    """Draws test accuracy, and agreement with the original, against a share of the original's."""
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    figure.suptitle(heading, x=0.01, ha="left")
    panels = figure.subplots(1, 2)
    titles = {"accuracy": "Test accuracy", "agreement": "Agreement with the original's predictions"}
    smallest = min(row[share] for row in rows)
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        axes.axhline(rows[0][key], color=GREY, linestyle=DASHES, linewidth=1)
        ends = [("original", GREY, smallest, rows[0][key])] if key == "accuracy" else []
        for rule, line in _lines(rows).items():
            colour, marker, style = _look(rule)
            shares, values = [row[share] for row in line], [row[key] for row in line]
            looks = {"color": colour, "marker": marker, "linestyle": style}
            axes.plot(shares, values, **looks, markersize=4.5, linewidth=1.8)
            ends.append((_name(rule), colour, shares[-1], values[-1]))
        axes.set_title(title)
        axes.set_xlabel(f"{of}, share of the original's")
        axes.yaxis.set_major_formatter(PERCENT)
        _size_axis(axes, smallest)
        # A rule that collapses leaves the picture, so that the others can be told apart.
        values = [row[key] for row in rows]
        bottom = max(min(values), rows[0][key] - DEEPEST)
        margin = 0.06 * max(max(values) - bottom, 0.01)
        axes.set_ylim(bottom - margin, max(values) + margin)
        _label_ends(axes, ends)
    return figure


def weights_against_threshold(rows: list[Row], heading: str) -> Figure:
    """Draws what the published rule leaves, and how good that is, against its threshold."""
    line = sorted((row for row in rows if row["rule"] == "threshold"), key=lambda r: r["amount"])
    amounts = [row["amount"] for row in line]
    figure = Figure(figsize=(7.5, 5.6), layout="constrained")
    figure.suptitle(f"Folding by threshold: {heading}", x=0.01, ha="left")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, key, title in zip(
        panels, ("parameters", "accuracy"), ("Parameters", "Test accuracy"), strict=True
    ):
        colour, marker = LOOKS["threshold"]
        axes.plot(amounts, [row[key] for row in line], color=colour, marker=marker, markersize=4.5)
        axes.axhline(rows[0][key], color=GREY, linestyle=DASHES, linewidth=1)
        axes.annotate(
            "original",
            (1, rows[0][key]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color=GREY,
            ha="right",
        )
        axes.set_title(title)
        axes.margins(y=0.15)
    panels[0].set_ylim(bottom=0)
    panels[0].yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panels[1].yaxis.set_major_formatter(PERCENT)
    panels[1].set_xlabel("Threshold: units active more often than this lose their activation")
    panels[1].invert_xaxis()
    return figure


def predicted_against_measured(rows: list[Row], heading: str) -> Figure:
    """Draws the output error that evidence predicted against that measured on test rows."""
    found = {
        rule: [(row["predicted"], row["error"]) for row in line if row.get("predicted")]
        for rule, line in _lines(rows).items()
    }
    pairs = np.array([pair for line in found.values() for pair in line])
    figure = Figure(figsize=(6.2, 5.6), layout="constrained")
    figure.suptitle(heading, x=0.01, ha="left")
    axes = figure.subplots()
    ends = [pairs.min() / 1.3, pairs.max() * 1.3]
    axes.plot(ends, ends, color=GREY, linestyle=DASHES, linewidth=1)
    for rule, line in found.items():
        if line:
            colour, marker, _ = _look(rule)
            axes.plot(*zip(*line, strict=True), marker, color=colour, label=_name(rule))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("Predicted relative output error")
    axes.set_title("Relative output error measured on test rows")
    axes.legend(frameon=False)
    return figure


def activation_rates(rates: dict[str, np.ndarray], heading: str) -> Figure:
    """Draws a histogram of the units' activation rates for each layer."""
    columns = 2 if len(rates) == 4 else min(3, len(rates))
    lines = -(-len(rates) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.4, 2.5 * lines + 0.6), layout="constrained")
    figure.suptitle(f"Activation rates: {heading}", x=0.01, ha="left")
    panels = list(figure.subplots(lines, columns, sharex=True, squeeze=False).flat)
    for axes in panels[len(rates) :]:
        axes.set_axis_off()
    for axes, (name, rate) in zip(panels, rates.items(), strict=False):
        counts, edges = np.histogram(rate, bins=20, range=(0, 1))
        colours = [GREY, *[LINEAR] * 18, ON]
        axes.bar(edges[:-1], counts, width=0.046, align="edge", color=colours)
        axes.set_title(f"{name}, {len(rate)} units", fontsize=10)
        shares = counts / len(rate)
        corner = {"xycoords": "axes fraction", "va": "top", "fontsize": 9}
        axes.annotate(f"{shares[0]:.0%} rarely on", (0.02, 0.98), color=GREY, **corner)
        axes.annotate(
            f"{shares[-1]:.0%} nearly always on", (0.98, 0.98), ha="right", color=ON, **corner
        )
        axes.margins(y=0.25)
        axes.xaxis.set_major_formatter(PERCENT)
    figure.supxlabel("Share of the calibration rows on which a unit is active", fontsize=10)
    figure.supylabel("Units", fontsize=10)
    return figure


def widths_before_and_after(rows: list[Row], heading: str) -> Figure:
    """Draws each layer's width before and after, for the smallest good network of each rule."""
    lines = _lines(rows)
    chosen = [smallest_good(lines[rule], rows[0]) for rule in OURS if rule in lines]
    layers, before = rows[0]["layers"], np.array(rows[0]["units"])
    size = (3.9 * len(chosen) + 0.9, 0.42 * len(layers) + 2.2)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(f"Units in each layer: {heading}", x=0.01, ha="left")
    panels = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    places = np.arange(len(layers))
    for axes, row in zip(panels, chosen, strict=True):
        units, linear = np.array(row["units"]), np.array(row["linear"])
        axes.barh(places, before, height=0.72, color=FAINT, label="folded away")
        axes.barh(places, units, height=0.72, color=KEPT, label="kept with activation")
        axes.barh(places, linear, left=units, height=0.72, color=LINEAR, label="linear")
        parts = zip(places, before, units, linear, row["bottleneck"], strict=True)
        for place, total, k, r, rank in parts:
            text = f"{k} of {total}"
            text += f", {r} linear" if r else ""
            text += f", reads through {rank}" if rank else ""
            axes.annotate(
                text,
                (max(total, k + r), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.set_title(
            f"{_name(row['rule'])} {row['amount']:g}\n"
            f"{row['share']:.1%} of the parameters, accuracy {row['accuracy']:.1%}",
            fontsize=10,
        )
        axes.set_xlim(0, 1.8 * before.max())
        axes.grid(False, axis="y")
    panels[0].set_yticks(places, layers)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles[1:] + handles[:1],
        labels[1:] + labels[:1],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    return figure


def smallest_good(line: Sequence[Row], original: Row, loss: float = 0.01) -> Row:
    """Returns the smallest row within ``loss`` of the original's accuracy, else the best."""
    good = [row for row in line if row["accuracy"] >= original["accuracy"] - loss]
    if good:
        return min(good, key=lambda row: row["parameters"])
    return max(line, key=lambda row: row["accuracy"])


def _lines(rows: list[Row]) -> dict[str, list[Row]]:
    """Returns the rows of each rule, from the largest network to the smallest."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (rules.place(row["rule"]), -row["share"])):
        if row["rule"] != "original":
            found.setdefault(row["rule"], []).append(row)
    return found


def _look(rule: str) -> tuple[str, str, Any]:
    """Colour, marker and style of a rule's line: dotted where some step followed."""
    name, steps = rules.parsed(rule)
    return *LOOKS[name], DOTTED if steps else "-"


def _name(rule: str) -> str:
    return rule.replace("_", " ")


def _size_axis(axes: Axes, smallest: float) -> None:
    """Shares on a logarithmic axis, shrinking to the right, ticks far enough apart to read."""
    axes.set_xscale("log")
    axes.set_xlim(1.15, smallest / 1.15)
    closest = smallest**0.085
    ticks = [1.0]
    for share in SHARES:
        if smallest / 1.15 <= share <= ticks[-1] * closest:
            ticks.append(share)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(PERCENT)
    axes.tick_params(axis="x", labelsize=8.5)


def _label_ends(axes: Axes, ends: list[tuple[str, str, float, float]]) -> None:
    """Writes each line's name beside its last point, moved apart where names would overlap."""
    low, high = axes.get_ylim()
    gap = 0.06 * (high - low)
    ends = sorted(ends, key=lambda end: -end[3])
    places, ceiling, floor = [], high, low
    for end in ends:
        places.append(min(max(end[3], low), ceiling))
        ceiling = places[-1] - gap
    for i in reversed(range(len(ends))):
        places[i] = max(places[i], floor)
        floor = places[i] + gap
    for (name, colour, share, value), place in zip(ends, places, strict=True):
        fell = value < low
        axes.annotate(
            f"{name}, falls to {value:.1%}" if fell else f"{name} {value:.1%}",
            (share, max(value, low)),
            xytext=(1.03, place),
            textcoords=("axes fraction", "data"),
            color=colour,
            va="center",
            arrowprops=None
            if fell
            else {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5},
        )
