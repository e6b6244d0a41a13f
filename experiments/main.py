"""Trains or loads a network, folds it by a list of rules, and reports what that did.

    python -m experiments.main --config=configs/digits_mlp.py --workdir=runs/digits_mlp

A run that was stopped goes on where it was when the same command is given again. The same
command is ``python -m experiments.sweep``, which says more of its flags.
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
    command = [sys.executable, "-m", "experiments.sweep", *sys.argv[1:]]
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


def start() -> None:
    """Parses the flags and runs."""
    flags.mark_flag_as_required("config")
    app.run(main)


if __name__ == "__main__":
    start()
