"""The report's numbers are those of the results; the page needs no other file."""

import csv
import html.parser
import json
import pathlib
import re

import pytest

from experiments import results
from experiments.report import charts, figures, page, runs, svg, tables
from experiments.report.__main__ import write
from experiments.sweep import summary

RULES = {"threshold": (0.5, 0.1), "size": (0.25, 0.1, 0.01)}


def row(rule, amount, share, accuracy, **fields):
    return {
        "rule": rule, "amount": amount, "parameters": round(4000 * share), "share": share,
        "classes": 10, "accuracy": accuracy, "balanced_accuracy": accuracy - 0.003,
        "agreement": min(1.0, accuracy + 0.02), "cross_entropy": 0.3,
        "predicted": 0.2 - share / 10 if rule == "size" else None, "error": 0.21 - share / 10,
        "layers": ["in", "middle"], "units": [max(1, round(64 * share)), 3], "linear": [0, 3],
        "bottleneck": [2, 0], **fields,
    }  # fmt: skip


def measured(seed):
    original = row("original", 1.0, 1.0, 0.97 + seed / 1000, units=[64, 32], linear=[0, 0],
                   bottleneck=[0, 0], rates={"in": [3] * 20, "middle": [1] * 20})  # fmt: skip
    small = [
        row(rule, amount, amount * 0.99, 0.97 - 0.02 * (1 - amount) + seed / 2000)
        for rule, amounts in RULES.items() for amount in amounts
    ]  # fmt: skip
    return [original, *small]


@pytest.fixture
def single(tmp_path):
    folder = tmp_path / "digits<1>"
    folder.mkdir()
    for each in measured(0):
        results.append(folder / "results.jsonl", each)
    config = {"dataset.name": "digits", "network.hidden": [64, 32]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "versions.json").write_text(json.dumps({"jax": "9.9.9"}))
    return folder


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "seeds"
    folder.mkdir()
    for seed in range(5):
        for each in measured(seed):
            task = {"seed": seed, "dataset.name": "digits"}
            results.append(folder / f"results-{seed % 2}.jsonl", {"task": task} | each)
    failure = {"task": {"seed": 9}, "rule": "network", "amount": 0.0, "failure": "gone <away>"}
    results.append(folder / "results-0.jsonl", failure)
    return folder


class Cells(html.parser.HTMLParser):
    """The tables of a page, and whether its tags match."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag in ("meta",):
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def test_numbers_are_those_of_the_results(single):
    html_file, markdown, table = write([runs.read(single)], single, "A report")
    (found,) = Cells(html_file.read_text()).tables
    rows = results.read(single / "results.jsonl")
    assert len(found) == len(rows) + 1
    by_place = {(cells[0], cells[1]): cells for cells in found[1:]}
    for each in rows:
        amount = "" if each["rule"] == "original" else f"{each['amount']:g}"
        cells = by_place[each["rule"], amount]
        assert cells[2] == f"{each['parameters']:,}"
        assert cells[5] == f"{each['accuracy']:.2%}"
        if each["rule"] == "size":
            assert cells[8:] == [f"{each['predicted']:.4f}", f"{each['error']:.4f}"]
    # Markdown has the same cells, and the file of values every number in full.
    lines = [line for line in markdown.read_text().splitlines() if line.startswith("| ")]
    assert [line.strip("|").replace(" ", "") for line in lines[2:]] == [
        "|".join(cells).replace(" ", "") for cells in found[1:]
    ]
    with table.open() as file:
        values = list(csv.DictReader(file))
    assert [float(v["accuracy"]) for v in values] == [r["accuracy"] for r in rows]
    assert json.loads(values[0]["rates"]) == rows[0]["rates"]


def test_the_page_is_whole_and_needs_nothing_else(single, sweep):
    found = [runs.read(single), runs.read(sweep)]
    text = write(found, single, "A & B")[0].read_text()
    parsed = Cells(text)
    assert len(parsed.tables) == 3  # all together, and each
    assert not re.search(r'(src|href)="(https?:)?//', text)
    assert "gone &lt;away&gt;" in text and "A &amp; B" in text and "digits&lt;1&gt;" in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert "jax 9.9.9" in text
    assert 'href="config.json"' in text
    assert (
        "NaN" not in text and "nan" not in re.sub(r"</?nav|dominant", "", text).split("<script")[0]
    )
    # Every colour comes from the style, so that it suits the theme.
    assert not re.search(r"<(svg|path|rect|circle|polygon|text)[^>]*#[0-9a-f]{3,6}", text)


def test_a_sweep_is_summarised(sweep):
    run = runs.read(sweep)
    assert len(run.failures) == 1 and len(run.rows) == 5 * 6
    table = tables.table(run)
    assert [cells[:3] for cells in table.rows[:2]] == [
        ["", "original", ""],
        ["", "threshold", "0.5"],
    ]
    assert table.rows == [summary.cells(one) for one in summary.summarise(run.rows)]
    titles = [figure.title for figure in figures.figures(run)]
    assert titles == [
        "Loss of accuracy against size", "Networks that lose at most one point",
        "Predicted and measured error", "Loss of accuracy over tasks and seeds",
        "Units of each layer: threshold 0.5", "Units of each layer: size 0.25", "Activation rates",
    ]  # fmt: skip
    loss = 100 * (0.972 - (0.97 - 0.02 * 0.9 + 0.001))
    drawing = figures.figures(run)[0].drawing
    assert f"size 0.1: {loss:.2f} ± 0.04 points at 9.9%, 5 networks" in drawing


def test_folders_without_results_are_named(tmp_path):
    with pytest.raises(runs.NoRun, match="holds no results"):
        runs.read(tmp_path)


def test_scales_and_ticks():
    scale = svg.Scale(0.01, 1.0, 0, 100, log=True)
    assert scale(0.1) == pytest.approx(50) and scale(1.0) == pytest.approx(100)
    assert svg.ticks(3.0, 3.0) == [3.0]
    assert svg.ticks(-1.3, 7.9) == [0.0, 2.0, 4.0, 6.0]
    assert svg.decades(1e-6, 1.0)[0] == 1e-6 and len(svg.decades(1e-6, 1.0)) == 7
    for values in ([0.5], [0.0, 1e-9], [-3.0, 200.0]):
        made = charts.plot(
            [charts.Series("a", 0, [charts.Point(0.1, v) for v in values])],
            figures.SHARE, charts.Axis("y", str), "words",
        )  # fmt: skip
        assert "nan" not in made and made.startswith("<svg")


def test_markdown_of_a_run(single):
    text = page.markdown([runs.read(single)], "A report", {"jax": "1"})
    assert text.startswith("# A report\n\nMade with jax 1.\n\n## digits<1>\n\ndigits, hidden")
    assert "Run with jax 9.9.9." in text


def test_titles_name_the_kind_of_network():
    def titled(**network):
        config = {"dataset.name": "digits"} | {f"network.{k}": v for k, v in network.items()}
        return runs.Run("a", pathlib.Path(), config, {}, [], []).title

    assert titled(hidden=(12, 3)) == "digits, hidden layers 12-3"
    assert titled(kind="vgg", hidden=(128,)) == "digits, vgg"
