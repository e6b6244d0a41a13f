"""Predicted and measured errors of the zoo's architectures."""

from experiments.coverage import folds, zoo


def test_architectures_are_folded_and_ratios_told(monkeypatch, capsys):
    monkeypatch.setattr(folds, "ROWS", 32)
    folds.main(["nnx_mlp", "gcn"])
    head, line, *rows, empty, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith("| architecture | size |") and line.startswith("|:---|---:|")
    (refused,) = (own for own in rows if "Error" in own)
    assert refused.startswith("| gcn | LinjaxError: inputs without rows |")
    errors = [own.split("|")[3:6] for own in rows if own is not refused]
    assert len(errors) == 2 and all(0 < float(e) < 1 for own in errors for e in own)
    assert not empty and first.startswith("2 folds on these rows") and "others" in second


def test_ratios_are_of_errors_that_say_something():
    rows = [(0.9, 0.0, 0.0, 0.01), (0.9, 0.1, 0.11, 0.2), (0.9, 0.9, 0.8, 0.8)]
    lines = folds.told([folds.Folded(*row) for row in rows]).splitlines()
    assert lines[0].startswith("1 folds on these rows: 100% within a factor of 1.5, 100% at most")
    assert lines[1].endswith("from 2.00 to 10.00") and "2 folds on others: 0% within" in lines[1]


def test_factored_kernels_in_front_of_few_outputs_cost_what_is_predicted():
    """Six times as much was predicted, as if every direction counted."""
    for own in folds.folded(zoo.MODELS["maxout"]):
        assert own.predicted / 1.5 <= own.held_out <= 1.5 * own.predicted
