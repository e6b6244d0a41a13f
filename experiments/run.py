"""A run or a sweep from its axes to its table and pictures; it can be killed and goes on."""

import importlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax

from experiments import axes, charts, drawings, groups, journal, measure, methods, pretrained, table
from experiments.data import load
from experiments.groups import Group, Job
from experiments.journal import Row


def run(
    config: Any,
    sweep: Sequence[str],
    workdir: str | pathlib.Path,
    data_dir: str | None = None,
    retry: bool = False,
) -> list[Row]:
    """Does this process's part of a sweep, of one network without axes.

    Args:
      config: as in ``configs/common.py``; its ``sweep`` holds axes, its ``pruned_rules`` the
        rules for networks with a ``pruning.share``; ``study`` a module of ``experiments`` whose
        ``run`` measures networks of its own, in place of the axes.
      sweep: axes of the command line.
      workdir: folder for ``config.json``, ``results.jsonl``, ``networks/``, the table and the
        pictures.
      data_dir: folder that holds the data sets.
      retry: whether to try again what failed.

    Returns:
      All rows there are now, of every process.
    """
    folder = pathlib.Path(workdir)
    if "study" in config:
        journal.claim(folder, config)
        importlib.import_module(f"experiments.{config.study}").run(config, folder, data_dir)
        finish(folder, config)
        return journal.read(folder)
    asked = axes.read(config, sweep)
    cells = axes.cells(asked, data_dir)
    _have(axes.configured(config, cells[0].settings), len(cells) == 1, data_dir)
    journal.claim(folder, config)
    process, processes = jax.process_index(), jax.process_count()
    job = Job(
        config=config,
        todo=methods.listed(asked.rules),
        todo_pruned=methods.listed(config.get("pruned_rules", asked.rules)),
        folder=folder,
        data_dir=data_dir,
        journal=journal.Journal(folder, process, retry),
    )
    everything = groups.groups(cells)
    mine = [g for g in everything[process::processes] if job.missing(g)]
    print(_plan(everything, mine, job, process, processes))
    progress = Progress(job, mine, len(cells) == 1)
    for group in mine:
        for row in groups.work(job, group, progress.say):
            job.journal.append(row)
            progress.row(row)
        progress.group(group)
        # A system maps only so many programs (65,530 pieces of memory on Linux by default).
        jax.clear_caches()
    if complete(job, everything):  # in several processes: the last one to finish
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


def complete(job: Job, everything: list[Group]) -> bool:
    """Whether every network has been measured by every rule, by whichever process."""
    fresh = job._replace(journal=journal.Journal(job.folder))
    return not any(map(fresh.missing, everything))


def _plan(
    everything: list[Group], mine: list[Group], job: Job, process: int, processes: int
) -> str:
    count = sum(len(group.cells) for group in everything)
    part = f", process {process + 1} of {processes}" if processes > 1 else ""
    left = sum(map(job.missing, mine))
    total = sum(len(job.wanted(c)) + 1 for g in everything for c in g.cells)
    return f"{count} networks in {len(everything)} groups, {total} rows{part}: {left} rows to do"


class Progress:
    """Says how far a process is, how fast, and how long it will take."""

    def __init__(self, job: Job, mine: list[Group], single: bool) -> None:
        self.job, self.single = job, single
        self.left = {group.name: job.missing(group) for group in mine}
        self.started = self.group_started = time.monotonic()
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

    def group(self, group: Group) -> None:
        """Notes a finished group, and says where things are."""
        now = time.monotonic()
        seconds, self.group_started = now - self.group_started, now
        del self.left[group.name]  # a network that failed as a whole has a single row
        rate = self.done / (now - self.started)
        left = sum(self.left.values()) / rate if rate else float("inf")
        failed = f", {self.failures} failed" if self.failures else ""
        print(
            f"{group.shared}: {len(group.cells)} networks in {seconds:.1f} s; {self.done} rows"
            f"{failed}, {60 * rate:.0f} a minute, {clock(left)} left",
            flush=True,
        )


def clock(seconds: float) -> str:
    """Seconds as people say them.

    >>> clock(42), clock(125), clock(7300)
    ('42 s', '2 min', '2 h 2 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(min(seconds, 1e9) / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
