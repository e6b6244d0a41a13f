"""Trains or loads networks, folds them by a list of rules, and reports what that did.

    python -m experiments.main --config=configs/digits_mlp.py --workdir=runs/digits_mlp
    python -m experiments.main --config=configs/digits_mlp.py --workdir=runs/digits_seeds \\
        --sweep=seed=0,1,2 --sweep=size=0.1,0.05

``--sweep=FIELD=VALUE,VALUE`` varies a field of the config; ``seed`` stands for all seeds, a
rule's name for its amounts, ``dataset.name=*`` for every table in ``--data_dir``. A config may
bring axes of its own. ``--processes=N`` spreads the work over N processes of this machine;
on several machines start one process on each, with ``--process_id=I`` beside ``--processes=N``, on
a folder that all of them see. What was stopped goes on where it was by the same command.
"""

import multiprocessing
import os
import sys
import threading

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.data import MissingData
from experiments.journal import OtherRun
from experiments.run import run

CONFIG = config_flags.DEFINE_config_file("config", None, "What to do; a file in configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for what the run writes.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that holds the data set.")
SWEEP = flags.DEFINE_multi_string("sweep", [], "An axis: FIELD=VALUE,VALUE. May be repeated.")
PROCESSES = flags.DEFINE_integer("processes", 1, "Processes that share the work.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number, from 0.")
RETRY = flags.DEFINE_bool("retry", False, "Tries again what failed.")


def main(argv: list[str]) -> None:
    """Runs what the flags name, or this process's part of it."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if PROCESSES.value > 1 and PROCESS_ID.value is None:
        sys.exit(share(PROCESSES.value))
    work(PROCESS_ID.value or 0)


def work(process: int) -> None:
    """Does a process's part."""
    logging.set_verbosity(logging.ERROR)  # libraries report much that isn't about the run
    part = process, PROCESSES.value
    try:
        run(CONFIG.value, SWEEP.value, WORKDIR.value, DATA_DIR.value, RETRY.value, part)
    except (ValueError, MissingData, OtherRun) as error:
        sys.exit(str(error))


def share(count: int) -> int:
    """Starts processes on this machine, which share its cores; returns their exit status."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or count) // count))
    start = multiprocessing.get_context("spawn").Process
    children = [start(target=_child, args=(sys.argv, i), daemon=True) for i in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return max(abs(child.exitcode or 0) for child in children)


def _child(argv: list[str], process: int) -> None:
    """Works until it is done, or its parent has died, however it did."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    flags.FLAGS(argv)
    work(process)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
