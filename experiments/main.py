"""Trains or loads a network, folds it by a list of rules, and reports what that did.

    python -m experiments.main --config=configs/digits_mlp.py --workdir=runs/digits_mlp

A run that was stopped goes on where it was when the same command is given again.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.data import MissingData
from experiments.run import OtherRun, run

CONFIG = config_flags.DEFINE_config_file("config", None, "What to do; a file in configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for what the run writes.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that holds the data set.")


def main(argv: list[str]) -> None:
    """Runs the experiment that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.ERROR)  # libraries report much that isn't about the run
    try:
        run(CONFIG.value, WORKDIR.value, DATA_DIR.value)
    except (MissingData, OtherRun) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
