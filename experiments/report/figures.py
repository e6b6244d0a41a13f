"""What a report draws of a run: accuracy, losses and errors against size."""

from collections.abc import Sequence

import numpy as np

from experiments.report import charts, units
from experiments.report.charts import Axis, Box, Point, Series, percent
from experiments.report.lines import Key, look_of, name_of, pairs_of, points_of, tasks
from experiments.report.parts import Figure
from experiments.report.runs import Run
from experiments.results import Row
from experiments.sweep import summary
from experiments.sweep.summary import Summary

DEEPEST = 10.0  # points below the original: what loses more is outside of a drawing


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
    made += units.layers(run)
    made.append(units.rates(run))
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


def _spread(rows: Sequence[Row]) -> dict[tuple[float, str, float], float]:
    """Standard errors of the mean loss, in points."""
    return {
        key: float(np.std(points_of(pairs), ddof=1) / np.sqrt(len(pairs)))
        for key, pairs in pairs_of(rows).items()
        if len(pairs) > 1
    }


def _within(lines: Lines) -> Figure | None:
    keys = list(lines)
    place = summary.POINTS.index(units.POINT)
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
    pairs = {key: found for key, found in pairs_of(run.rows).items() if len(found) > 3}
    keys = list(dict.fromkeys((pruned, rule) for pruned, rule, _ in pairs))
    rows = [
        Box(_label(pruned, rule, amount), look_of((pruned, rule), keys), points_of(found))
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
