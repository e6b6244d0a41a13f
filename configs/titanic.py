"""Titanic, 12-64-128-128-256-256-2: 81.8% right as trained, 81.2% at a hundredth of the size.

    python -m experiments.main --config=configs/titanic.py --workdir=runs/titanic \
        --data_dir=DIR

``DIR`` holds ``titanic.parquet``, with the columns of the well-known training file;
``LINJAX_TABULAR`` does as well. ``python -m experiments.main --config=configs/titanic.py
--sweep=seed=0,1,2,3,4 …`` trains several seeds at once. Means of five: ``compress`` agrees with
99.3% of the original's predictions at a tenth of the size and with 98.1% at a hundredth, one shot
with 98.8% and 97.0%, pruning with refit with 93.0% and 81.5%, the published rule at half with
83.6%. A test row is 0.6%. ``docs/results.md`` has the thresholds.
"""

from configs import tabular


def get_config():
    """Returns the config."""
    config = tabular.get_config("titanic")
    config.dataset.drop = ("PassengerId", "Name", "Ticket", "Cabin")  # unlike for each passenger
    return config
