"""A run or a sweep from its axes to its table and pictures; it can be killed and goes on."""

import datetime
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

    Returns all rows that the folder has now, of every process.

    Args:
      config: as in ``configs/common.py``; its ``sweep`` holds axes, its ``pruned_rules`` the
        rules for networks with a ``pruning.share``.
      sweep: axes of the command line.
      workdir: folder for all that is written.
      data_dir: folder that holds the data sets.
      retry: whether to try again what failed.
      part: this process's number, and of how many that share the folder.
    """
    folder = pathlib.Path(workdir)
    asked = axes.read(config, sweep)
    tasks = axes.tasks(asked, data_dir)
    single = len(tasks) == 1
    _have(axes.configured(config, tasks[0]), single, data_dir)
    journal.claim(folder, config)
    process, processes = part
    todo = methods.listed(asked.rules)
    pruned = methods.listed(config.get("pruned_rules", asked.rules))
    own = journal.Journal(folder, process, retry)
    job = Job(config, todo, pruned, folder, data_dir, own)
    everything = groups.groups(tasks)
    mine = [g for g in everything[process::processes] if job.left(g)]
    left = sum(map(job.left, mine))
    total = job._replace(journal=journal.Journal(folder / "nothing")).left(tasks)
    of = f", process {process + 1} of {processes}" if processes > 1 else ""
    print(f"{len(tasks)} networks in {len(everything)} groups, {total} rows{of}: {left} rows to do")
    started, done, failed = time.monotonic(), 0, 0
    for group in mine:
        for row in groups.work(job, group, lambda text: print(f"  {text}", flush=True)):
            own.append(row)
            done, failed = done + 1, failed + ("failure" in row)
            if single or "failure" in row:
                print(f"  {measure.sentence(row)}", flush=True)
        if not single:
            far = pace(done, left, time.monotonic() - started)
            said = ", ".join(map(str, groups.shared(group[0]).values())) or "networks"
            print(f"{said}: {len(group)} networks; {far}, {failed} failed", flush=True)
        # A system maps only so many programs (65,530 pieces of memory on Linux by default).
        jax.clear_caches()
    fresh = job._replace(journal=journal.Journal(folder))
    if not any(map(fresh.left, everything)):  # in several processes: the last one to finish
        rows, by = journal.read(folder), config.get("by", table.BY)
        print(table.write(folder, rows, by))
        for picture in charts.write(folder, drawings.charts(rows, by)):
            print(f"picture: {picture}")
    return journal.read(folder)


def pace(done: int, left: int, seconds: float) -> str:
    """How far a process is, how fast, and how long it will take.

    >>> pace(30, 90, 60.0)
    '30 rows, 30 a minute, 0:02:00 left'
    """
    rate = max(done / seconds, 1e-6)
    wait = datetime.timedelta(seconds=round(max(0, left - done) / rate))
    return f"{done} rows, {60 * rate:.0f} a minute, {wait} left"


def _have(config: Any, single: bool, data_dir: str | None) -> None:
    """Says at once what is missing, where nothing could be done without it."""
    if config.network.get("kind", "mlp") in pretrained.READERS:
        pretrained.found(config.network.kind, config.weights)
    if single:
        load(config.dataset, data_dir)
