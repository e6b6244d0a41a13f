"""Folds a decoder of random parameters within a limit of memory, and says what took how long.

    python -m experiments.large --config=configs/large_decoder.py --workdir=runs/large

Parameters are written to Orbax and read from it in pieces, second moments are gathered in several
passes (``limits``) and kept in files (``folder``), and the fold reads them a few layers at a time.
Ends with an error if more memory was resident than ``--config.memory`` gigabytes.
"""

import os
import sys
from pathlib import Path

# XLA on CPUs makes float32 copies of all layers' kernels before a loop over these; in a loop they
# are made one by one. Flags are read when JAX is imported.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_disable_hlo_passes=while-loop-invariant-code-motion"
)

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.large.run import run

CONFIG = config_flags.DEFINE_config_file("config", "configs/large_decoder.py", "The decoder.")
WORKDIR = flags.DEFINE_string("workdir", "runs/large", "Folder for checkpoints and evidence.")


def main(argv: list[str]) -> None:
    """Runs, and compares the peak with the limit."""
    del argv
    logging.set_verbosity(logging.WARNING)  # Orbax tells much
    config = CONFIG.value
    done = run(config, Path(WORKDIR.value))
    print(done)
    if done.peak > config.memory * 1e9:
        sys.exit(f"{done.peak:,} bytes were resident, more than the {config.memory} GB allowed")


if __name__ == "__main__":
    app.run(main)
