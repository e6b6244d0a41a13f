"""What a report shows of a run: tables and drawings made from its rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.report import charts
from experiments.report.charts import Axis, Box, Layer, Point, Series, percent
from experiments.report.runs import Run, task_of
from experiments.results import Row
from experiments.sweep import summary
from experiments.sweep.summary import Summary

LOOKS = ("threshold", "published_size", "size", "compress", "tolerance", "refit",
         "whitened_svd", "svd", "magnitude", "activity")  # fmt: skip
COLOURS = 10
DEEPEST = 10.0  # points below the original: what loses more is outside of a drawing
POINT = 1.0


class Figure(NamedTuple):
    """A drawing with its heading, legend and caption; ``wide`` takes a line of its own."""

    title: str
    drawing: str
    caption: str
    legend: str = ""
    wide: bool = False


class Table(NamedTuple):
    """A table; the first ``words`` columns are text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


Key = tuple[float, str]  # share pruned in training, rule


def tasks(run: Run) -> int:
    """Number of networks that were trained, pruned ones apart."""
    return len({summary.task_of(row) for row in run.rows})


def name_of(key: Key) -> str:
    """A line's name: the rule, and what was pruned in training.

    >>> name_of((0.25, "published_size"))
    'published size, 25% pruned'
    """
    pruned, rule = key
    words = rule.replace("_", " ").replace("original", "original" if not pruned else "no fold")
    return f"{words}, {pruned:.0%} pruned" if pruned else words


def look_of(key: Key, keys: Sequence[Key]) -> int:
    """Colour and mark of a line: a rule's own if nothing was pruned."""
    pruned, rule = key
    if not pruned and rule in LOOKS:
        return LOOKS.index(rule)
    others = [k for k in keys if k[0] or k[1] not in LOOKS]
    return others.index(key) % COLOURS


def table(run: Run) -> Table:
    """The run's figures: its rows, or over many tasks their summary."""
    if tasks(run) > 1:
        return Table(
            summary.COLUMNS, [summary.cells(one) for one in summary.summarise(run.rows)], 2
        )
    columns = ("rule", "amount", "parameters", "share", "accuracy", "balanced", "same class",
               "predicted error", "measured error")  # fmt: skip
    order = list(dict.fromkeys(row["rule"] for row in run.rows))
    rows = sorted(run.rows, key=lambda row: (order.index(row["rule"]), -row["amount"]))
    return Table(columns, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    def maybe(name: str) -> str:
        value = row.get(name)
        return "" if value is None or row["rule"] == "original" else f"{value:.4f}"

    return [
        row["rule"].replace("_", " "),
        "" if row["rule"] == "original" else f"{row['amount']:g}",
        f"{row['parameters']:,}",
        f"{row['share']:.1%}",
        *(f"{row[key]:.2%}" for key in ("accuracy", "balanced_accuracy", "agreement")),
        maybe("predicted"),
        maybe("error"),
    ]


def figures(run: Run) -> list[Figure]:
    """All drawings that the run's rows allow."""
    many = tasks(run) > 1
    made: list[Figure | None] = []
    if many:
        plain, pruned = _lines(summary.summarise(run.rows))
        made += [_losses(run, plain, ""), _within(plain)]
        made.append(_losses(run, pruned, ", units pruned in training"))
    else:
        made.append(_accuracies(run))
    made.append(_errors(run))
    if many:
        made.append(_boxes(run))
    made += _layers(run)
    made.append(_rates(run))
    return [figure for figure in made if figure is not None]


SHARE = Axis("parameters, share of the original's", percent, True)


Lines = dict[Key, list[Summary]]


def _lines(found: Sequence[Summary]) -> tuple[Lines, Lines]:
    """Summaries by rule, the largest networks first: of plain and of pruned networks."""
    plain: Lines = {}
    pruned: Lines = {}
    for one in sorted(found, key=lambda s: -s.share):
        if one.rule != "original":
            lines = pruned if one.pruned else plain
            lines.setdefault((one.pruned, one.rule), []).append(one)
    return plain, dict(sorted(pruned.items()))


def _accuracies(run: Run) -> Figure | None:
    original = next((row for row in run.rows if row["rule"] == "original"), None)
    lines: dict[Key, list[Row]] = {}
    for row in run.rows:
        if row["rule"] != "original":
            lines.setdefault((0.0, row["rule"]), []).append(row)
    if original is None or not lines:
        return None
    keys = list(lines)
    series = [
        Series(
            name_of(key),
            look_of(key, keys),
            [
                Point(row["share"], row["accuracy"], 0.0, _words(row))
                for row in sorted(rows, key=lambda row: -row["share"])
                if row["share"] > 0
            ],
        )
        for key, rows in lines.items()
    ]
    floor = max(
        min(p.y for s in series for p in s.points), original["accuracy"] - DEEPEST / 100
    )  # fmt: skip
    axis = Axis("test accuracy", percent, low=floor - 0.005)
    words = "Test accuracy against the share of parameters"
    drawing = charts.plot(series, SHARE, axis, words, original["accuracy"])
    return Figure(
        "Accuracy against size",
        drawing,
        f"The dashed line is the original. What loses more than {DEEPEST:g} points is outside.",
        charts.legend([(s.name, s.look) for s in series]),
    )


def _words(row: Row) -> str:
    return (
        f"{row['rule'].replace('_', ' ')} {row['amount']:g}: {percent(round(row['share'], 4))} of "
        f"the parameters, accuracy {row['accuracy']:.2%}, same class {row['agreement']:.2%}"
    )


def _losses(run: Run, lines: Lines, suffix: str) -> Figure | None:
    if not lines:
        return None
    spread = _spread(run.rows)
    keys = list(lines)
    series = []
    for key, found in lines.items():
        points = []
        for one in found:
            error = spread.get((*key, one.amount), 0.0)
            words = (
                f"{name_of(key)} {one.amount:g}: {one.loss:.2f} ± {error:.2f} points at "
                f"{percent(round(one.share, 4))}, {one.networks} networks"
            )
            points.append(Point(one.share, one.loss, error, words))
        series.append(Series(name_of(key), look_of(key, keys), points))
    values = [p.y for s in series for p in s.points]
    axis = Axis("mean loss of accuracy, points", lambda v: f"{v:g}",
                high=min(max(values) + 1, DEEPEST))  # fmt: skip
    drawing = charts.plot(series, SHARE, axis, "Mean loss of accuracy against size", 0.0)
    return Figure(
        f"Loss of accuracy against size{suffix}",
        drawing,
        "Means over tasks and seeds; bars are standard errors of the difference from the "
        f"original. What loses more than {DEEPEST:g} points is outside.",
        charts.legend([(s.name, s.look) for s in series]),
    )


def _pairs(rows: Sequence[Row]) -> dict[tuple[float, str, float], list[tuple[Row, Row]]]:
    """Each row with the original of its task, by pruning, rule and amount."""
    originals = {
        summary.task_of(row): row
        for row in rows
        if row["rule"] == "original" and not summary.pruned_in(row)
    }
    found: dict[tuple[float, str, float], list[tuple[Row, Row]]] = {}
    for row in rows:
        before = originals.get(summary.task_of(row))
        if before is not None and summary.learnt(before):
            key = (summary.pruned_in(row), row["rule"], row["amount"])
            found.setdefault(key, []).append((before, row))
    return {key: found[key] for key in sorted(found, key=summary.place)}


def _points(pairs: Sequence[tuple[Row, Row]]) -> list[float]:
    return [100 * (before["accuracy"] - after["accuracy"]) for before, after in pairs]


def _spread(rows: Sequence[Row]) -> dict[tuple[float, str, float], float]:
    """Standard errors of the mean loss, in points."""
    return {
        key: float(np.std(_points(pairs), ddof=1) / np.sqrt(len(pairs)))
        for key, pairs in _pairs(rows).items()
        if len(pairs) > 1
    }


def _within(lines: Lines) -> Figure | None:
    keys = list(lines)
    place = summary.POINTS.index(POINT)
    series = [
        Series(
            name_of(key),
            look_of(key, keys),
            [
                Point(s.share, s.within[place], 0.0,
                      f"{name_of(key)} {s.amount:g}: {s.within[place]:.0%} of {s.networks}")
                for s in found
            ],
        )
        for key, found in lines.items()
    ]  # fmt: skip
    if not series:
        return None
    axis = Axis("networks within one point", percent, low=-0.03, high=1.03)
    drawing = charts.plot(series, SHARE, axis, "Share of networks within one point against size")
    return Figure(
        "Networks that lose at most one point",
        drawing,
        "Share of the networks whose accuracy is within one point of the original's.",
        charts.legend([(s.name, s.look) for s in series]),
    )


def _boxes(run: Run) -> Figure | None:
    pairs = {key: found for key, found in _pairs(run.rows).items() if len(found) > 3}
    keys = list(dict.fromkeys((pruned, rule) for pruned, rule, _ in pairs))
    rows = [
        Box(_label(pruned, rule, amount), look_of((pruned, rule), keys), _points(found))
        for (pruned, rule, amount), found in pairs.items()
        if not (rule == "original" and not pruned)
    ]
    if not rows:
        return None
    values = [v for row in rows for v in row.values]
    axis = Axis("loss of accuracy, points", lambda v: f"{v:g}",
                low=max(min(values), -10.0), high=min(max(values), 40.0))  # fmt: skip
    return Figure(
        "Loss of accuracy over tasks and seeds",
        charts.boxes(rows, axis, "Box plots of the loss of accuracy", 760.0),
        "Median, quartiles, whiskers of one and a half times their distance; what is beyond "
        "is a point of its own, at the edge where it is outside.",
        wide=True,
    )


def _label(pruned: float, rule: str, amount: float) -> str:
    return name_of((pruned, rule)) + ("" if rule == "original" else f" {amount:g}")


def _errors(run: Run) -> Figure | None:
    rows = [r for r in run.rows if (r.get("predicted") or 0) > 0 and (r.get("error") or 0) > 0]
    if not rows:
        return None
    keys = list(dict.fromkeys((summary.pruned_in(r), r["rule"]) for r in rows))
    series = [
        Series(
            name_of(key),
            look_of(key, keys),
            [
                Point(r["predicted"], r["error"], 0.0,
                      f"{r['rule']} {r['amount']:g}: predicted {r['predicted']:.4f}, "
                      f"measured {r['error']:.4f}")
                for r in rows if (summary.pruned_in(r), r["rule"]) == key
            ],
            joined=False,
        )
        for key in keys
    ]  # fmt: skip

    def plain(value: float) -> str:
        return f"{value:g}"

    drawing = charts.plot(
        series,
        Axis("predicted relative error", plain, True),
        Axis("measured relative error", plain, True),
        "Measured against predicted error of the outputs",
        diagonal=True,
    )
    return Figure(
        "Predicted and measured error",
        drawing,
        "Relative error of the outputs: predicted on the calibration rows, measured on test "
        "rows. On the dashed line they are equal.",
        charts.legend([(s.name, s.look) for s in series]),
    )


def _layers(run: Run) -> list[Figure]:
    """For each rule the smallest size that loses at most a point, else the best."""
    made = []
    for (pruned, rule), amounts in _by_rule(run).items():
        losses = {a: float(np.mean(_points(pairs))) for a, pairs in amounts.items()}
        shares = {a: float(np.mean([r["share"] for _, r in p])) for a, p in amounts.items()}
        fine = [a for a in losses if losses[a] <= POINT]
        best = min(fine, key=lambda a: shares[a]) if fine else min(losses, key=lambda a: losses[a])
        rows = _mean_layers(amounts[best])
        if rows is None:
            continue
        loss = losses[best]
        change = f"loses {loss:.2f} points" if loss >= 0 else f"gains {-loss:.2f} points"
        title = f"{name_of((pruned, rule))} {best:g}"
        caption = f"{percent(round(shares[best], 4))} of the parameters; {change}."
        keys = "".join(
            f'<span><svg class="key" viewBox="0 0 14 14"><rect class="{kind}" width="14" '
            f'height="14"/></svg>{words}</span>'
            for kind, words in (
                ("kept", "kept with activation"), ("linear", "linear"), ("removed", "removed"),
            )
        )  # fmt: skip
        made.append(
            Figure(
                f"Units of each layer: {title}",
                charts.layers(rows, f"What became of each layer's units by {title}"),
                caption
                + " The numbers: kept of all, + linear units, via the rank of a bottleneck.",
                f'<p class="legend">{keys}</p>',
            )
        )
    return made


def _by_rule(run: Run) -> dict[Key, dict[float, list[tuple[Row, Row]]]]:
    found: dict[Key, dict[float, list[tuple[Row, Row]]]] = {}
    for (pruned, rule, amount), pairs in _pairs(run.rows).items():
        if rule != "original" and not pruned:
            found.setdefault((pruned, rule), {})[amount] = pairs
    return found


def _mean_layers(pairs: Sequence[tuple[Row, Row]]) -> list[Layer] | None:
    """Layers by their places, averaged; None if the networks have different numbers of them."""
    depths = {len(after["layers"]) for _, after in pairs}
    if len(depths) != 1:
        return None

    def mean(index: int, which: int, field: str) -> float:
        return float(np.mean([pair[which][field][index] for pair in pairs]))

    first = pairs[0][1]
    return [
        Layer(
            name, mean(i, 0, "units"), mean(i, 1, "units"), mean(i, 1, "linear"),
            mean(i, 1, "bottleneck"),
        )
        for i, name in enumerate(first["layers"])
    ]  # fmt: skip


def _rates(run: Run) -> Figure | None:
    rows = [r for r in run.rows if r["rule"] == "original" and r.get("rates")
            and not summary.pruned_in(r)]  # fmt: skip
    if not rows or len({tuple(r["rates"]) for r in rows}) != 1:
        return None
    drawings = [
        charts.histogram(np.mean([r["rates"][name] for r in rows], axis=0).tolist(), name)
        for name in rows[0]["rates"]
    ]
    per = " of a network, on average" if len(rows) > 1 else ""
    return Figure(
        "Activation rates",
        f'<div class="small">{"".join(drawings)}</div>',
        f"How many units{per} are on, for which share of the calibration rows.",
        wide=True,
    )


def settings_of(run: Run) -> list[tuple[str, str]]:
    """What a run's networks differ in, and how often each value occurs."""
    found: dict[str, dict[str, None]] = {}
    for row in run.rows:
        for name, value in task_of(row).items():
            found.setdefault(name, {})[str(value)] = None
    return [(name, ", ".join(values)) for name, values in found.items()]
