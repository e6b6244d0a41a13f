"""A table, 64-128-128-256-256, Adam, 10 epochs, batches of 32, as published.

    python -m experiments.main --config=configs/tabular.py:credit-g --workdir=runs/credit-g \
        --data_dir=DIR

The name after the colon is the table's. ``DIR`` holds it as ``credit-g.parquet``;
``LINJAX_TABULAR`` does as well, and without either it comes from OpenML.
"""

from configs.common import base


def get_config(name: str = "credit-g"):
    """Returns the config for the table of this name."""
    config = base()
    config.dataset.name = name
    config.network.hidden = (64, 128, 128, 256, 256)
    config.training.epochs = 10
    config.training.patience = 10
    return config
