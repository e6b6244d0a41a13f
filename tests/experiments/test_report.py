"""The report's numbers are those of the results; the page needs no other file."""

import html.parser
import json
import re

import pytest

from experiments import journal, report, table
from tests.experiments.rows import measured, swept


@pytest.fixture
def single(tmp_path):
    folder = tmp_path / "digits<1>"
    for each in measured():
        journal.append(folder / "results.jsonl", each)
    config = {"dataset.name": "digits", "network.hidden": [64, 32]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "versions.json").write_text(json.dumps({"jax": "9.9.9"}))
    return folder


@pytest.fixture
def sweep(tmp_path):
    for i, each in enumerate(swept()):
        journal.append(tmp_path / "seeds" / f"results-{i % 2}.jsonl", each)
    return tmp_path / "seeds"


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
    page = report.write([report.read(single)], single, "A report")
    (found,) = Cells(page.read_text()).tables
    rows = measured()
    assert len(found) == len(rows) + 1
    by_place = {
        (cells[0], cells[1]): dict(zip(found[0], cells, strict=True)) for cells in found[1:]
    }
    for each in rows:
        amount = "" if each["rule"] == "original" else f"{each['amount']:g}"
        cells = by_place[each["rule"], amount]
        assert cells["parameters"] == f"{each['parameters']:,}"
        assert cells["accuracy"] == f"{each['accuracy']:.2%}"
        if each["rule"] == "size":
            assert cells["predicted error"] == f"{each['predicted']:.4f}"
            assert cells["measured error"] == f"{each['error']:.4f}"


def test_the_page_is_whole_and_needs_nothing_else(single, sweep):
    found = [report.read(single), report.read(sweep)]
    text = report.write(found, single, "A & B").read_text()
    assert len(Cells(text).tables) == 2
    links = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert {link for link in links if not link.startswith("#")} == {"config.json"}
    assert "gone &lt;away&gt;" in text and "A &amp; B" in text and "digits&lt;1&gt;" in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert "jax 9.9.9" in text and "_COLOURS" not in text
    assert not re.search(r"\bnan\b", re.sub(r"<script.*?</script>", "", text), re.IGNORECASE)
    # Every colour comes from the style, so that it suits the theme.
    assert not re.search(r"(fill|stroke): ?#", text.split("</style>")[1])
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", text))
    assert all(f"{name}: #" in text.split("</style>")[0] for name in used)


def test_a_sweep_is_summarised(sweep):
    run = report.read(sweep)
    words = table.shown(table.summarise(run.rows))
    (found,) = Cells(report.page([run], "A report", sweep)).tables
    assert found == [list(words.columns), *words.values.tolist()]
    assert run.settings == [("seed", "0, 1, 2, 3, 4"), ("dataset.name", "d")]


def test_folders_without_results_are_named(tmp_path):
    with pytest.raises(report.NoRun, match="holds no results"):
        report.read(tmp_path)


def test_titles_name_the_kind_of_network(single):
    def titled(**network):
        config = {"dataset.name": "digits"} | {f"network.{k}": v for k, v in network.items()}
        return report.read(single)._replace(config=config, rows=[]).title

    assert titled(hidden=(12, 3)) == "digits, hidden layers 12-3"
    assert titled(kind="vgg", hidden=(128,)) == "digits, vgg"
