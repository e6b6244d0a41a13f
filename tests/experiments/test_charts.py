"""Charts are drawn once, as pictures and with words for pages."""

import re
import xml.etree.ElementTree as ET

import pytest
from matplotlib.figure import Figure

from experiments import charts, drawings, table
from tests.experiments.rows import measured, row, swept

SINGLE = ["accuracy", "operations", "errors", "widths", "rates"]
MANY = ["accuracy", "operations", "losses", "errors", "widths", "rates"]


@pytest.mark.parametrize(("rows", "names"), [(measured(), SINGLE), (swept(), MANY)])
def test_pictures_are_drawn(tmp_path, rows, names):
    written = charts.write(tmp_path, drawings.charts(rows))
    assert [path.name for path in written] == [f"{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_charts_of_a_page_have_its_colours_and_words():
    (losses,) = (chart for chart in drawings.charts(swept()) if chart.name == "losses")
    text = charts.svg(losses)
    ET.fromstring(text.replace("xlink:href", "href"))
    assert "var(--ink)" in text and not re.search(r"(fill|stroke): #", text)
    wanted = 100 * (0.972 - (0.952 + 0.001))
    assert re.search(rf"<title>size 0.1: loss {wanted:.4g} ± 0.0\d+ at 9.90%</title>", text)
    for chart in drawings.charts(measured()):
        assert not re.search(r"(fill|stroke): #|nan", charts.svg(chart)), chart.name


def test_time_is_an_axis_where_it_was_measured():
    rows = [r | {"latency": {"1": [9, 9], "32": [2.0 * r["share"] + 1, 3.0]}} for r in measured()]
    (chart,) = (c for c in drawings.charts(rows) if c.name == "latency")
    assert chart.title == "Accuracy against latency, calls of 32 rows, one network"
    share = (2 * 0.01 * 0.99 + 1) / 3
    assert f"<title>size 0.01: accuracy 0.9502 at {share:.2%}</title>" in charts.svg(chart)


def test_nothing_is_drawn_without_a_smaller_network():
    assert list(drawings.charts(measured()[:1])) == [] == list(drawings.charts([]))


@pytest.mark.parametrize(("rule", "amount"), [("threshold", 0.5), ("size", 0.25)])
def test_the_smallest_good_size_is_within_a_point(rule, amount):
    rows = measured()
    chosen = drawings.smallest_good([(rows[0], r) for r in rows if r["rule"] == rule])
    assert {after["amount"] for _, after in chosen} == {amount}


def test_the_best_where_none_is_good():
    original = row("original", 1.0, 1.0, 0.97)
    line = [(original, row("size", a, a, 0.5 + a)) for a in (0.1, 0.2)]
    assert drawings.smallest_good(line) == [line[1]]


def test_gains_and_error_bars_are_inside():
    """What is better than the original isn't cut off, nor are standard errors."""
    better = [r | {"accuracy": r["accuracy"] + 0.03 * (r["amount"] == 0.1)} for r in swept()
              if "failure" not in r]  # fmt: skip
    (losses,) = (chart for chart in drawings.charts(better) if chart.name == "losses")
    figure = Figure()
    losses.draw(figure, [])
    found = table.summarise(better)
    low, high = figure.axes[0].get_ylim()
    assert low < (found["loss"] - found["± loss"]).min() < -1
    assert high > (found["loss"] + found["± loss"]).max()


def test_no_two_lines_look_alike():
    """Nor where a sweep tells networks apart; a step after a rule keeps its colour."""
    rules = ("original", "threshold", "size", "size_int8")
    rows = [row(rule, a, a, 0.9, {"pruning.share": share}) for share in (0.0, 0.25, 0.4, 0.5)
            for rule in rules for a in (1.0, 0.4)]  # fmt: skip
    chart = next(drawings.charts(rows))
    figure = Figure()
    chart.draw(figure, [])
    lines, names = figure.axes[0].get_legend_handles_labels()
    looks = {name: (x.get_color(), x.get_linestyle()) for name, x in zip(names, lines, strict=True)}
    assert len(looks) == len(set(looks.values())) == 16
    assert looks["size"][0] == looks["size int8"][0]
