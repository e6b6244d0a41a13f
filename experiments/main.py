"""Trains or loads a network, folds it by a list of rules, and reports what that did.

    python -m experiments.main --config=configs/digits_mlp.py --workdir=runs/digits_mlp

A run that was stopped goes on where it was when the same command is given again. The same
command is ``python -m experiments.sweep``, which says more of its flags.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from experiments import workers
from experiments.data import MissingData
from experiments.journal import OtherRun

CONFIG = config_flags.DEFINE_config_file("config", None, "What to do; a file in configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for what the run writes.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that holds the data set.")
SWEEP = flags.DEFINE_multi_string("sweep", [], "An axis: FIELD=VALUE,VALUE. May be repeated.")
PROCESSES = flags.DEFINE_integer("processes", 1, "Processes that share the work.", lower_bound=1)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number.")
RETRY = flags.DEFINE_bool("retry", False, "Tries again what failed.")


def main(argv: list[str]) -> None:
    """Runs what the flags name, or this process's part of it."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.ERROR)  # libraries report much that isn't about the run
    if PROCESSES.value > 1 and PROCESS_ID.value is None:
        sys.exit(workers.start(PROCESSES.value))
    if PROCESS_ID.value is not None:
        workers.join(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
    from experiments.run import run  # JAX's devices are fixed from here on

    try:
        run(CONFIG.value, SWEEP.value, WORKDIR.value, DATA_DIR.value, RETRY.value)
    except (ValueError, MissingData, OtherRun) as error:
        sys.exit(str(error))


def start() -> None:
    """Parses the flags and runs."""
    flags.mark_flag_as_required("config")
    app.run(main)


if __name__ == "__main__":
    start()
