"""Titanic, with the network and the training of the other tables.

    python -m experiments.main --config=configs/titanic.py --workdir=runs/titanic \
        --data_dir=DIR

``DIR`` holds ``titanic.parquet``, with the columns of the well-known training file;
``LINJAX_TABULAR`` does as well.
"""

from configs import tabular


def get_config():
    """Returns the config."""
    config = tabular.get_config("titanic")
    config.dataset.drop = ("PassengerId", "Name", "Ticket", "Cabin")  # unlike for each passenger
    return config
