"""A run or a sweep from its axes to its table and pictures; it can be killed and goes on."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax

from experiments import axes, charts, drawings, groups, journal, measure, methods, pretrained, table
from experiments.data import load
from experiments.groups import Job
from experiments.journal import Row


def run(
    config: Any,
    sweep: Sequence[str],
    workdir: str | pathlib.Path,
    data_dir: str | None = None,
    retry: bool = False,
    part: tuple[int, int] = (0, 1),
) -> list[Row]:
    """Does this process's part of a sweep, of one network without axes.

    Args:
      config: as in ``configs/common.py``; its ``sweep`` holds axes, its ``pruned_rules`` the
        rules for networks with a ``pruning.share``.
      sweep: axes of the command line.
      workdir: folder for ``config.json``, ``results.jsonl``, ``networks/``, the table and the
        pictures.
      data_dir: folder that holds the data sets.
      retry: whether to try again what failed.
      part: this process's number, and of how many that share the folder.

    Returns:
      All rows there are now, of every process.
    """
    folder = pathlib.Path(workdir)
    asked = axes.read(config, sweep)
    tasks = axes.tasks(asked, data_dir)
    single = len(tasks) == 1
    _have(axes.configured(config, tasks[0]), single, data_dir)
    journal.claim(folder, config)
    process, processes = part
    job = Job(
        config=config,
        todo=methods.listed(asked.rules),
        todo_pruned=methods.listed(config.get("pruned_rules", asked.rules)),
        folder=folder,
        data_dir=data_dir,
        journal=journal.Journal(folder, process, retry),
    )
    everything = groups.groups(tasks)
    mine = [g for g in everything[process::processes] if job.left(g)]
    left = sum(map(job.left, mine))
    total = job._replace(journal=journal.Journal(folder / "nothing")).left(tasks)
    of = f", process {process + 1} of {processes}" if processes > 1 else ""
    print(f"{len(tasks)} networks in {len(everything)} groups, {total} rows{of}: {left} rows to do")
    progress = Progress(left, single)
    for group in mine:
        for row in groups.work(job, group, progress.say):
            job.journal.append(row)
            progress.row(row)
        progress.group(group)
        # A system maps only so many programs (65,530 pieces of memory on Linux by default).
        jax.clear_caches()
    fresh = job._replace(journal=journal.Journal(folder))
    if not any(map(fresh.left, everything)):  # in several processes: the last one to finish
        finish(folder, config)
    return journal.read(folder)


def _have(config: Any, single: bool, data_dir: str | None) -> None:
    """Says at once what is missing, where nothing could be done without it."""
    if config.network.get("kind", "mlp") in pretrained.READERS:
        pretrained.found(config.network.kind, config.weights)
    if single:
        load(config.dataset, data_dir)


def finish(folder: pathlib.Path, config: Any) -> None:
    """Writes the table and the pictures of all rows, and says where they are."""
    rows, by = journal.read(folder), config.get("by", table.BY)
    print(table.write(folder, rows, by))
    for picture in charts.write(folder, drawings.charts(rows, by)):
        print(f"picture: {picture}")


class Progress:
    """Says how far a process is, how fast, and how long it will take."""

    def __init__(self, left: int, single: bool) -> None:
        self.left, self.single = left, single
        self.started = time.monotonic()
        self.done, self.failures, self.said = 0, 0, 0.0

    def say(self, text: str) -> None:
        """Passes a line on, of many networks one every few seconds."""
        if self.single or time.monotonic() - self.said > 5:
            self.said = time.monotonic()
            print(f"  {text}", flush=True)

    def row(self, row: Row) -> None:
        """Notes a row."""
        self.done += 1
        self.failures += "failure" in row
        if self.single or "failure" in row:
            print(f"  {measure.sentence(row)}", flush=True)

    def group(self, group: list[Row]) -> None:
        """Notes a finished group, and says where things are."""
        rate = self.done / (time.monotonic() - self.started)
        said = ", ".join(map(str, groups.shared(group[0]).values())) or "networks"
        failed = f", {self.failures} failed" if self.failures else ""
        left = clock(max(0, self.left - self.done) / max(rate, 1e-9))
        print(f"{said}: {len(group)} networks; {self.done} rows{failed}, {60 * rate:.0f} a minute, "
              f"{left} left", flush=True)  # fmt: skip


def clock(seconds: float) -> str:
    """Seconds as people say them.

    >>> clock(42), clock(125), clock(7300)
    ('42 s', '2 min', '2 h 2 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(min(seconds, 1e9) / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
