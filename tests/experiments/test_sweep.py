"""A sweep killed anywhere ends as one that wasn't; so does one in several processes."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from configs import digits_mlp, published_tables
from experiments import axes, groups, journal, run

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [
    sys.executable, "-u", "-m", "experiments.main", f"--config={ROOT}/configs/digits_mlp.py",
    "--config.network.hidden=(12,)", "--config.training.epochs=2", "--config.dataset.rows=200",
    "--sweep=seed=0,1", "--sweep=training.learning_rate=1e-3,3e-3",
    "--sweep=training.batch=32,50", "--sweep=threshold=0.5", "--sweep=published_size=",
    "--sweep=size=0.5,0.25", "--sweep=tolerance=", "--sweep=compress=",
]  # fmt: skip
ROWS = 8 * 4


def tiny(**fields):
    config = digits_mlp.get_config()
    config.network.hidden, config.training.epochs, config.dataset.rows = (12,), 2, 200
    config.rules = {"threshold": (0.5,)}
    config.update(fields)
    return config


def start(workdir, *more):
    return subprocess.Popen(
        [*COMMAND, *more, f"--workdir={workdir}"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(workdir, *more):
    with start(workdir, *more) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    output = finish(folder)
    spent = time.monotonic() - started
    assert f"8 networks in 2 groups, {ROWS} rows: {ROWS} rows to do" in output
    assert "a minute" in output
    rows = journal.read(folder)
    assert len(rows) == ROWS and not any("failure" in row for row in rows)
    return folder, rows, spent


def table_of(folder):
    """The table without its heading, the folder's name."""
    return (folder / "results.md").read_text().split("\n", 1)[1]


def killed(folder, rng, most):
    """Starts the sweep and kills it at some moment."""
    with start(folder) as process:
        try:
            process.communicate(timeout=rng.uniform(0.2, 1.0) * most)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)


def check_killed(undisturbed, folder, kills, seed):
    whole, rows, spent = undisturbed
    rng = random.Random(seed)
    for _ in range(kills):
        killed(folder, rng, spent)
        # As a crash in the middle of a line would leave it.
        with (folder / "results.jsonl").open("a") as file:
            file.write('{"task": {"se')
    finish(folder)
    assert journal.read(folder) == rows
    lines = journal.lines(folder / "results.jsonl")
    assert len(lines) == ROWS  # nothing was done twice
    assert table_of(folder) == table_of(whole)


def test_killed_sweep_ends_with_the_results_of_an_undisturbed_one(undisturbed, tmp_path):
    folder = tmp_path / "part"
    folder.mkdir()
    check_killed(undisturbed, folder, kills=1, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_sweep_killed_again_and_again(undisturbed, tmp_path, seed):
    folder = tmp_path / "part"
    folder.mkdir()
    check_killed(undisturbed, folder, kills=8, seed=seed)


def test_two_processes_give_the_results_of_one(undisturbed, tmp_path):
    finish(tmp_path, "--processes=2")
    whole, rows, _ = undisturbed
    assert journal.read(tmp_path) == rows
    for name in ("results.jsonl", "results-1.jsonl"):
        assert len(journal.lines(tmp_path / name)) == ROWS // 2
    assert table_of(tmp_path) == table_of(whole)


def test_failures_are_recorded_and_stop_nothing(tmp_path, capsys):
    config = tiny()
    config.dataset.drop = ()
    sweep = ["dataset.name=digits,nowhere", "network.activation=relu,gelu", "tolerance=-1.0"]
    rows = run.run(config, sweep, tmp_path / "run", str(tmp_path))
    by_rule = {(r["task"]["dataset.name"], r["task"]["network.activation"], r["rule"]): r
               for r in rows}  # fmt: skip
    assert len(by_rule) == 2 * 3 + 2
    for name in ("relu", "gelu"):
        assert "nowhere" in by_rule["nowhere", name, "network"]["failure"]
        assert "expected a number" in by_rule["digits", name, "tolerance"]["failure"]
        assert by_rule["digits", name, "threshold"]["accuracy"] > 0
    assert "4 failed" in capsys.readouterr().out
    text = (tmp_path / "run" / "results.md").read_text()
    assert text.count("Failed:") == 4

    # They stay failed until they are to be tried again.
    assert run.run(config, sweep, tmp_path / "run", str(tmp_path)) == rows
    assert "0 rows to do" in capsys.readouterr().out
    assert run.run(config, sweep, tmp_path / "run", str(tmp_path), retry=True) == rows
    assert "8 rows to do" in capsys.readouterr().out  # what is missing of four networks


def test_axes():
    config = tiny(sweep=(("seed", (0, 1)), ("training.batch", (32, 50))))
    found = axes.read(config, ["training.batch=16", "size=0.1,0.2", "network.hidden=(4,),(5, 6)"])
    assert found.fields == {
        "seed": (0, 1), "training.batch": (16,), "network.hidden": ((4,), (5, 6)),
    }  # fmt: skip
    assert found.rules == {"threshold": (0.5,), "size": (0.1, 0.2)}
    tasks = axes.tasks(found, None)
    assert len(tasks) == 4
    mine = axes.configured(config, tasks[-1])
    assert (mine.dataset.seed, mine.network.seed, mine.training.seed) == (1, 1, 1)
    assert mine.network.hidden == (5, 6) and config.network.hidden == (12,)


def test_fields_vary_together():
    pairs = "network.hidden+training.learning_rate=((4,),1e-3),((5, 6),1e-2)"
    found = axes.tasks(axes.read(tiny(), [pairs, "seed=0,1"]), None)
    assert [task["network.hidden"] for task in found] == [(4,), (4,), (5, 6), (5, 6)]
    mine = axes.configured(tiny(), found[2])
    assert mine.network.hidden == (5, 6) and mine.training.learning_rate == 1e-2
    with pytest.raises(ValueError, match=r"no field training\.speed"):
        axes.read(tiny(), ["seed+training.speed=(1,2)"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "expected field=value"),
        ("seed=", "no values"),
        ("seed=1,1", "twice"),
        ("training.speed=1", "no field training.speed"),
        ("dataset.name=*", "no tables"),
    ],
)
def test_bad_axes_are_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        axes.tasks(axes.read(tiny(), [text]), str(tmp_path))


def test_groups_share_all_but_what_may_differ_in_one():
    tasks = [
        {"dataset.name": name, "seed": seed, "training.batch": batch}
        for name in ("car", "wilt") for seed in range(3) for batch in (16, 32)
    ]  # fmt: skip
    found = groups.groups(tasks, largest=2)
    assert list(map(len, found)) == [2, 1] * 4
    assert sorted(str(t) for group in found for t in group) == sorted(map(str, tasks))
    assert len(set(map(groups.digest, found))) == 8
    assert groups.shared(found[0][0]) == {"dataset.name": "car", "training.batch": 16}


def test_published_tables_are_three_seeds_and_four_shares(tmp_path):
    for name in ("car", "wilt"):
        (tmp_path / f"{name}.parquet").touch()
    config = published_tables.get_config()
    tasks = axes.tasks(axes.read(config, []), str(tmp_path))
    assert len(tasks) == 2 * 3 * 4
    assert list(map(len, groups.groups(tasks))) == [12, 12]


def test_journal_forgets_failures_that_were_mended(tmp_path):
    first, second = journal.Journal(tmp_path, 0), None
    first.append({"task": {"seed": 0}, "rule": "network", "amount": 0.0, "failure": "gone"})
    first.append({"task": {"seed": 1}, "rule": "size", "amount": 0.1, "failure": "odd"})
    assert journal.Journal(tmp_path).has({"seed": 0}, "size", 0.5)
    second = journal.Journal(tmp_path, 1, retry=True)
    assert not second.has({"seed": 0}, "size", 0.5)
    second.append({"task": {"seed": 0}, "rule": "original", "amount": 1.0})
    second.append({"task": {"seed": 1}, "rule": "size", "amount": 0.1, "accuracy": 1.0})
    assert [r["rule"] for r in journal.read(tmp_path)] == ["original", "size"]
    assert not any("failure" in r for r in journal.read(tmp_path))
