import json
import pathlib
import signal
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from experiments import journal
from experiments.journal import OtherRun, claim

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [
    sys.executable,
    "-u",
    "-m",
    "experiments.main",
    f"--config={ROOT}/configs/digits_mlp.py",
    "--config.network.hidden=(16, 16)",
    "--config.training.epochs=3",
    "--config.rules.threshold=(0.6, 0.4)",
    "--config.rules.size=(0.5,)",
    "--config.rules.published_size=()",
    "--config.rules.compress=()",
]


def start(workdir):
    return subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(workdir):
    with start(workdir) as process:
        output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    return output


def kill_after(workdir, words):
    """Starts a run and kills it once it has printed these words."""
    with start(workdir) as process:
        for line in process.stdout:
            if words in line:
                process.send_signal(signal.SIGKILL)
                break
        else:
            pytest.fail(f"the run never said {words!r}")
    assert process.returncode == -signal.SIGKILL


def test_killed_run_ends_with_the_results_of_an_undisturbed_one(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    output = finish(whole)
    assert "threshold 0.4" in output

    kill_after(part, "epoch   1")
    assert not (part / "results.jsonl").exists()
    kill_after(part, "threshold 0.6")
    assert 2 <= len(journal.lines(part / "results.jsonl")) < 4
    with (part / "results.jsonl").open("a") as file:
        file.write('{"rule": "thr')  # as a crash in the middle of a line would leave it
    output = finish(part)
    assert "going on after epoch 3" in output
    assert "threshold 0.6:" not in output

    rows = (whole / "results.jsonl").read_bytes()
    assert (part / "results.jsonl").read_bytes() == rows
    assert [row["rule"] for row in journal.lines(whole / "results.jsonl")] == [
        "original",
        "threshold",
        "threshold",
        "size",
    ]
    assert "picture: " in output and f"table: {part / 'results.md'}" in output
    for name in ("results.md", "results.html", "accuracy.png", "rates.png", "widths.png"):
        assert (part / name).stat().st_size > 0


def test_missing_data_ends_the_command_with_a_message(tmp_path):
    command = [arg.replace("digits_mlp", "mnist_mlp") for arg in COMMAND]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path}"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[0].startswith(f"mnist is not in {tmp_path}")
    assert "Traceback" not in done.stderr


def test_a_folder_is_kept_for_one_config(tmp_path):
    config = ConfigDict({"training": {"epochs": 3}, "hidden": (4, 5), "rules": {"size": (0.1,)}})
    claim(tmp_path, config)
    config.rules.size = (0.1, 0.2)  # rules may be added
    claim(tmp_path, config)
    config.training.epochs = 4
    with pytest.raises(OtherRun, match=r"training\.epochs: 3 there, 4 here"):
        claim(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text())["training.epochs"] == 3
