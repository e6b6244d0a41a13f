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

import os
import subprocess
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

PARENT = "LINJAX_SWEEP_PARENT"


def main(argv: list[str]) -> None:
    """Runs what the flags name, or this process's part of it."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.ERROR)  # libraries report much that isn't about the run
    if PROCESSES.value > 1 and PROCESS_ID.value is None:
        sys.exit(share(PROCESSES.value))
    if PARENT in os.environ:
        threading.Thread(target=_follow, args=(int(os.environ[PARENT]),), daemon=True).start()
    part = PROCESS_ID.value or 0, PROCESSES.value
    try:
        run(CONFIG.value, SWEEP.value, WORKDIR.value, DATA_DIR.value, RETRY.value, part)
    except (ValueError, MissingData, OtherRun) as error:
        sys.exit(str(error))


def share(count: int) -> int:
    """Starts processes on this machine and waits for them; returns their exit status.

    They share the host's cores. If this process dies, however it does, they end, too.
    """
    read, write = os.pipe()
    cores = max(1, (os.cpu_count() or count) // count)
    environment = {**os.environ, PARENT: str(read), "OMP_NUM_THREADS": str(cores)}
    command = [sys.executable, "-m", "experiments.main", *sys.argv[1:]]
    children = [
        subprocess.Popen([*command, f"--process_id={i}"], env=environment, pass_fds=[read])
        for i in range(count)
    ]
    try:
        return max(abs(child.wait()) for child in children)
    finally:
        os.close(write)


def _follow(pipe: int) -> None:
    """Ends this process when its parent has closed the pipe."""
    os.read(pipe, 1)
    os._exit(1)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
