"""Trains networks, certifies them on their box of inputs, and tabulates what that allows.

    python -m experiments.exact --config=configs/exact_mnist.py --workdir=runs/exact_mnist \\
        --data_dir=DIR

A run that was stopped goes on where it was when the same command is given again.
"""

import sys

from absl import app, flags, logging

from experiments.data import MissingData
from experiments.exact import lumping, removal, scaling
from experiments.main import CONFIG, DATA_DIR, WORKDIR
from experiments.run import OtherRun

EXPERIMENTS = {"removal": removal.run, "scaling": scaling.run, "lumping": lumping.run}


def main(argv: list[str]) -> None:
    """Runs the experiment that the config names."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    logging.set_verbosity(logging.ERROR)  # libraries report much that isn't about the run
    config = CONFIG.value
    try:
        EXPERIMENTS[config.experiment](config, WORKDIR.value, DATA_DIR.value)
    except (MissingData, OtherRun) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
