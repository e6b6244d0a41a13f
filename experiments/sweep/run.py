"""A sweep from its axes to its summary; every step can be killed and goes on."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from experiments import files, plots, pretrained, results, rules, versions
from experiments.results import Row
from experiments.run import claim
from experiments.sweep import axes, groups, journal, summary
from experiments.sweep.groups import Group, Job


def run(
    config: Any,
    sweep: Sequence[str],
    workdir: str,
    data_dir: str | None = None,
    retry: bool = False,
) -> list[Row]:
    """Does this process's part of a sweep.

    Args:
      config: as in ``configs/common.py``; its ``sweep`` holds axes, its ``pruned_rules`` the
        rules for networks with a ``pruning.share``.
      sweep: axes of the command line.
      workdir: folder for ``config.json``, ``results-PROCESS.jsonl``, ``timings.jsonl``,
        ``networks/`` and ``summary.md``.
      data_dir: folder that holds the data sets.
      retry: whether to try again what failed.

    Returns:
      All rows there are now, of every process.
    """
    folder = pathlib.Path(workdir)
    asked = axes.read(config, sweep)
    if config.network.get("kind", "mlp") in pretrained.NETWORKS:
        pretrained.found(config.network.kind, config.weights)  # else nothing can be done
    fixed = ConfigDict({k: v for k, v in config.to_dict().items() if k not in
                        ("sweep", "rules", "pruned_rules")})  # fmt: skip
    claim(folder, fixed)
    versions.note(folder)
    process, processes = jax.process_index(), jax.process_count()
    job = Job(
        config=config,
        todo=rules.listed(asked.rules),
        todo_pruned=rules.listed(config.get("pruned_rules", asked.rules)),
        folder=folder,
        data_dir=data_dir,
        devices=jax.local_devices(),
        journal=journal.Journal(folder, process, retry),
    )
    everything = groups.groups(axes.cells(asked, data_dir))
    mine = [g for g in everything[process::processes] if groups.unfinished(job, g)]
    print(_plan(everything, mine, job, process, processes))
    progress = Progress(job, mine)
    for group in mine:
        for row in groups.work(job, group, progress.say):
            job.journal.append(row)
            progress.row(row)
        progress.group(group)
        # A system maps only so many programs (65,530 pieces of memory on Linux by default).
        jax.clear_caches()
    found = journal.read(folder)
    if complete(job, everything):  # in several processes: the last one to finish
        files.write(folder / "summary.md", summary.markdown(found).encode())
        print(f"summary: {folder / 'summary.md'}")
        for picture in _pictures(folder, found):
            print(f"picture: {picture}")
    return found


def _pictures(folder: pathlib.Path, rows: list[Row]) -> list[pathlib.Path]:
    """Draws means over networks whose operations were counted, and returns the files."""
    found = [one for one in summary.summarise(rows) if one.flops is not None and not one.pruned]
    most = max((one.rows for one in found), default=0)
    means = [one._asdict() for one in found if one.rows == most]
    if len(means) < 2 or means[0]["rule"] != "original":
        return []
    heading = f"means of {means[0]['networks']} runs"
    return plots.write_means(folder, means, heading)


def complete(job: Job, everything: list[Group]) -> bool:
    """Whether every network has been measured by every rule, by whichever process."""
    fresh = job._replace(journal=journal.Journal(job.folder))
    return not any(groups.unfinished(fresh, group) for group in everything)


def _plan(
    everything: list[Group], mine: list[Group], job: Job, process: int, processes: int
) -> str:
    count = sum(len(group.cells) for group in everything)
    part = f", process {process + 1} of {processes}" if processes > 1 else ""
    left = sum(_missing(job, group) for group in mine)
    total = sum(len(groups.wanted(job, c)) + 1 for g in everything for c in g.cells)
    return f"{count} networks in {len(everything)} groups, {total} rows{part}: {left} rows to do"


def _missing(job: Job, group: Group) -> int:
    return sum(
        not job.journal.has(cell.key, *pair)
        for cell in group.cells
        for pair in [("original", 1.0), *groups.wanted(job, cell)]
    )


class Progress:
    """Says how far a process is, how fast, and how long it will take."""

    def __init__(self, job: Job, mine: list[Group]) -> None:
        self.job, self.todo = job, sum(_missing(job, group) for group in mine)
        self.left = {group.name: _missing(job, group) for group in mine}
        self.started = self.group_started = time.monotonic()
        self.done, self.failures, self.said = 0, 0, 0.0

    def say(self, text: str) -> None:
        """Passes a line on, at most every few seconds."""
        if time.monotonic() - self.said > 5:
            self.said = time.monotonic()
            print(f"  {text}", flush=True)

    def row(self, row: Row) -> None:
        """Notes a row."""
        self.done += 1
        if "failure" in row:
            self.failures += 1
            print(f"  failed: {row['task']} {row['rule']}: {row['failure']}", flush=True)

    def group(self, group: Group) -> None:
        """Notes a finished group, and says where things are."""
        now = time.monotonic()
        seconds, self.group_started = now - self.group_started, now
        # A network that failed as a whole has a single row.
        self.todo -= self.left.pop(group.name)
        spent = now - self.started
        rate = self.done / spent
        left = self.todo / rate if rate else float("inf")
        failed = f", {self.failures} failed" if self.failures else ""
        print(
            f"{group.shared}: {len(group.cells)} networks in {seconds:.1f} s; {self.done} rows"
            f"{failed}, {60 * rate:.0f} a minute, {clock(left)} left",
            flush=True,
        )
        timing = {"group": group.name, "networks": len(group.cells), "seconds": round(seconds, 3)}
        results.append(self.job.folder / f"timings-{jax.process_index()}.jsonl", timing)


def clock(seconds: float) -> str:
    """Seconds as people say them.

    >>> clock(42), clock(125), clock(7300)
    ('42 s', '2 min', '2 h 2 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(min(seconds, 1e9) / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
