"""Tables, as published: 64-128-128-256-256, Adam, 10 epochs; the published method and ours.

    python -m experiments.main --config=configs/published_tables.py \
        --workdir=runs/published_tables --data_dir=DIR

trains three seeds on every table in ``DIR``, one parquet file each, plainly and with a quarter,
two fifths and half of the units pruned by activity between the epochs, and measures the
published method at three quarters, half and a quarter of the size and at thresholds in steps of
0.1, ours at a quarter to a fortieth. ``runs/published_tables/results.md`` says how many tasks
lose how much; ``python -m experiments.report runs/published_tables`` draws it.
``--processes=2`` uses two processes; ``--sweep=dataset.name=car,wilt`` takes fewer tables.

Measured on all 33 tables, three seeds, without pruning in training (``--sweep=pruning.share=0.0
--sweep=refit=0.25,0.1,0.05,0.025,0.01``, and 0.01 for ``size`` and ``compress``); the 93 networks
that tell classes apart are 85.9% right. Points of accuracy lost on average, in brackets the share
of networks within one point:

    ==============  ===========  ===========  ===========  ===========  ===========
    share           25%          10%          5%           2.5%         1%
    ==============  ===========  ===========  ===========  ===========  ===========
    compress        0.0 (.99)    -0.1 (.94)   -0.0 (.91)   0.1 (.84)    1.2 (.72)
    size            0.1 (.95)    0.3 (.85)    0.5 (.73)    1.0 (.68)    3.2 (.57)
    refit           2.2 (.47)    6.1 (.27)    10.0 (.20)   15.5 (.16)   23.2 (.12)
    published size  11.3 (.14)
    ==============  ===========  ===========  ===========  ===========  ===========

``refit`` prunes and refits by least squares; the published method loses 0.9 points at 75% (.76 of
the networks within one point) and 7.2 at 50% (.31). Predicted and measured errors of ``size`` have
a correlation of logarithms of 0.98, the measured one is 0.8 to 1.9 times as large (deciles). All
2,970 rows took two processes 31 minutes on two cores with some other work beside, and the 2,376 of
pruned networks one process 68 minutes before that; ``docs/results.md`` has those.
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
