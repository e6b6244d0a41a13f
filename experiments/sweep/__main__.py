"""Trains, folds and measures every network that the axes of a sweep ask for.

    python -m experiments.sweep --config=configs/digits_mlp.py --sweep=seed=0,1,2 \\
        --sweep=size=0.1,0.05 --workdir=runs/digits_seeds

``--sweep=FIELD=VALUE,VALUE`` varies a field of the config; ``seed`` stands for all seeds, a
rule's name for its amounts, ``dataset.name=*`` for every table in ``--data_dir``. A config may
bring axes of its own. ``--processes=N`` spreads the work over N processes of this machine;
on several machines start one process on each with ``--coordinator``, ``--process_id`` and
``--processes``, on a folder that all of them see.

The same command takes a sweep up where it was stopped.
"""

import sys

from absl import app, flags, logging

from experiments.data import MissingData
from experiments.main import CONFIG, DATA_DIR, WORKDIR
from experiments.run import OtherRun
from experiments.sweep import run, workers

SWEEP = flags.DEFINE_multi_string("sweep", [], "An axis: FIELD=VALUE,VALUE. May be repeated.")
PROCESSES = flags.DEFINE_integer("processes", 1, "Processes that share the work.", lower_bound=1)
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's number.")
RETRY = flags.DEFINE_bool("retry", False, "Tries again what failed.")


def main(argv: list[str]) -> None:
    """Runs the sweep, or its part."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.ERROR)
    if PROCESSES.value > 1 and PROCESS_ID.value is None:
        sys.exit(workers.start(PROCESSES.value))
    if PROCESS_ID.value is not None:
        workers.join(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
    try:
        run.run(CONFIG.value, SWEEP.value, WORKDIR.value, DATA_DIR.value, RETRY.value)
    except (ValueError, MissingData, OtherRun) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
