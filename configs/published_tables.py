"""Tables, as published: 64-128-128-256-256, Adam, 10 epochs; the published method and ours.

    python -m experiments.sweep --config=configs/published_tables.py \
        --workdir=runs/published_tables --data_dir=DIR

trains three seeds on every table in ``DIR``, one parquet file each, plainly and with a quarter,
two fifths and half of the units pruned by activity between the epochs, and measures the
published method at three quarters, half and a quarter of the size and at thresholds in steps of
0.1, ours at a quarter to a fortieth. ``runs/published_tables/summary.md`` says how many tasks
lose how much; ``python -m experiments.report runs/published_tables`` draws it.
``--processes=2`` uses two processes; ``--sweep=dataset.name=car,wilt`` takes fewer tables.
"""

from configs import tabular

SIZES = (0.25, 0.1, 0.05, 0.025)


def get_config():
    """Returns the config."""
    config = tabular.get_config()
    config.pruning = {"share": 0.0}
    config.rules = {
        "threshold": tuple(i / 10 for i in range(10, -1, -1)),
        "published_size": (0.75, 0.5, 0.25),
        "size": SIZES,
        "compress": SIZES,
    }
    config.pruned_rules = {"published_size": (0.75, 0.5, 0.25), "size": SIZES}
    config.sweep = (
        ("dataset.name", ("*",)),
        ("seed", (0, 1, 2)),
        ("pruning.share", (0.0, 0.25, 0.4, 0.5)),
    )
    return config
