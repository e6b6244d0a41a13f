"""What became of the units of each layer, and how often they are on."""

from collections.abc import Sequence

import numpy as np

from experiments.report import charts
from experiments.report.charts import Layer, percent
from experiments.report.lines import Key, name_of, pairs_of, points_of
from experiments.report.parts import Figure
from experiments.report.runs import Run
from experiments.results import Row
from experiments.sweep import summary

POINT = 1.0


def layers(run: Run) -> list[Figure]:
    """For each rule the smallest size that loses at most a point, else the best."""
    made = []
    for (pruned, rule), amounts in _by_rule(run).items():
        losses = {a: float(np.mean(points_of(pairs))) for a, pairs in amounts.items()}
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
    for (pruned, rule, amount), pairs in pairs_of(run.rows).items():
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


def rates(run: Run) -> Figure | None:
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
