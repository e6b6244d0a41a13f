"""The one table of results."""

import csv
import io
import json

import numpy as np
import pytest

from experiments import table
from tests.experiments.rows import measured, row, swept


def test_a_single_network_has_its_figures():
    rows = measured()
    found = table.summarise(rows)
    assert "networks" not in found and len(found) == len(rows)
    words = table.shown(found)
    by = {(a, b): line for a, b, *line in words.values.tolist()}
    assert by["size", "0.1"][:2] == ["396", "9.9%"]
    names = list(words.columns[2:])
    assert by["size", "0.1"][names.index("accuracy")] == "95.20%"
    assert by["size", "0.1"][names.index("predicted error")] == "0.1901"
    assert by["original", ""][names.index("measured error")] == ""
    assert by["original", ""][names.index("units")] == "100.0%"
    assert by["size", "0.1"][names.index("units")] == f"{(6 + 3 + 3) / 96:.1%}"


def test_means_over_seeds_have_their_errors():
    rows = swept()
    found = table.summarise(rows).set_index(["rule", "amount"])
    losses = [100 * (0.97 + s / 1000 - (0.952 + s / 2000)) for s in range(5)]
    line = found.loc[("size", 0.1)]
    assert line["networks"] == 5
    assert line["loss"] == pytest.approx(np.mean(losses))
    assert line["± loss"] == pytest.approx(np.std(losses, ddof=1) / np.sqrt(5))
    assert line["≤ 2"] == np.mean(np.array(losses) <= 2 + 1e-9)
    assert line["share"] == pytest.approx(396 / 4000)
    assert table.notes(rows) == ["Failed: {'seed': 9}: gone <away>"]
    assert list(found.index[:3]) == [("original", 1.0), ("threshold", 0.5), ("threshold", 0.1)]


def test_what_a_sweep_varies_is_told_apart():
    rows = [r for s in (0, 1) for l1 in (0.0, 0.1)
            for r in measured(s, {"seed": s, "training.l1": l1})]  # fmt: skip
    found = table.summarise(rows, ("training.l1", "network.hidden"))
    assert list(found.columns[:3]) == ["training.l1", "rule", "amount"]
    assert len(found) == 2 * 6 and set(found["networks"]) == {2}


def test_pruned_networks_are_measured_against_those_that_were_not():
    task = {"seed": 0, "pruning.share": 0.0}
    rows = [*measured(0, task), *measured(1, task | {"seed": 1}),
            row("original", 1.0, 0.75, 0.95, task | {"pruning.share": 0.25})]  # fmt: skip
    found = table.summarise(rows)
    assert found["pruning.share"].iloc[-1] == 0.25
    assert found["share"].iloc[-1] == 0.75 and found["loss"].iloc[-1] == pytest.approx(2.0)


def test_networks_that_answer_with_one_class_are_left_out():
    rows = [*measured(0, {"seed": 0}), row("original", 1.0, 1.0, 0.1, {"seed": 1})]
    assert (table.flat(rows)["accuracy"] > 0.5).all()
    assert table.notes(rows) == ["Left out, as the network answers with one class: 1."]


def test_all_is_written(tmp_path):
    rows = swept()
    said = table.write(tmp_path, rows)
    assert f"table: {tmp_path / 'results.md'}" in said and "95.30%" in said
    text = (tmp_path / "results.md").read_text()
    assert text.startswith(f"# {tmp_path.name}\n\n| rule | amount | networks |")
    assert "gone <away>" in text
    values = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert [float(v["accuracy"] or "nan") for v in values[:-1]] == [
        r["accuracy"] for r in rows[:-1]
    ]
    assert json.loads(values[0]["rates"]) == rows[0]["rates"]
    assert "<td>95.30%</td>" in (tmp_path / "results.html").read_text()
