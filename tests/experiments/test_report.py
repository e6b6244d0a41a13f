import numpy as np
import pytest

from experiments import plots, tables


def row(rule, amount, share, accuracy, **fields):
    units = [max(1, int(64 * share)), max(1, int(32 * share))]
    return {
        "rule": rule,
        "amount": amount,
        "parameters": int(4000 * share),
        "share": share,
        "flops": 8e6 * share,
        "accuracy": accuracy,
        "balanced_accuracy": accuracy,
        "agreement": min(1.0, accuracy + 0.02),
        "layers": ["in", "middle"],
        "units": units,
        "linear": [0, 3],
        "bottleneck": [2, 0],
        **fields,
    }


ROWS = [
    row("original", 1.0, 1.0, 0.98, units=[64, 32], linear=[0, 0]),
    row("threshold", 0.5, 0.9, 0.97),
    row("threshold", 0.0, 0.02, 0.1),
    row("size", 0.1, 0.1, 0.975),
    row("size", 0.01, 0.01, 0.9),
]
RATES = {"in": np.linspace(0, 1, 64), "middle": np.zeros(32)}


def test_pictures_are_drawn(tmp_path):
    written = plots.write(tmp_path, ROWS, RATES, "Digits, 8-64-32-10, relu")
    assert sorted(path.name for path in written) == [
        "accuracy.png",
        "rates.png",
        "thresholds.png",
        "widths.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_no_threshold_picture_without_thresholds(tmp_path):
    rows = [r for r in ROWS if r["rule"] != "threshold"]
    names = {path.name for path in plots.write(tmp_path, rows, RATES, "Digits")}
    assert names == {"accuracy.png", "rates.png", "widths.png"}


@pytest.mark.parametrize(("rule", "amount"), [("threshold", 0.5), ("size", 0.1)])
def test_smallest_good_row_is_within_a_point(rule, amount):
    line = [r for r in ROWS if r["rule"] == rule]
    assert plots.smallest_good(line, ROWS[0])["amount"] == amount


def test_best_row_where_none_is_good():
    assert plots.smallest_good([ROWS[2], ROWS[4]], ROWS[0]) is ROWS[4]


def test_tables(tmp_path, capsys):
    tables.report(tmp_path, [*ROWS, row("threshold", 0.25, 0.5, 0.5)], "Digits")
    text = (tmp_path / "results.md").read_text()
    assert text.startswith("# Digits\n\n| rule | amount |")
    assert "| size | 0.1 | 400 | 10.0% | 0.8 | 97.50% | 97.50% | 99.50% |" in text
    # A rule's rows stand together, whatever order they were made in.
    rules = [line.split("|")[1].strip() for line in text.splitlines()[4:]]
    assert rules == ["original", "threshold", "threshold", "threshold", "size", "size"]
    assert "97.50%" in capsys.readouterr().out
