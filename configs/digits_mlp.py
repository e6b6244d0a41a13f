"""Scikit-learn's digits, 64-256-256-128-128-10: needs no download, and is what `make demo` runs.

    python -m experiments.main --config=configs/digits_mlp.py --workdir=runs/digits_mlp
"""

from configs.common import base


def get_config():
    """Returns the config."""
    config = base()
    config.network.hidden = (256, 256, 128, 128)
    config.training.epochs = 30
    config.calibration.rows = 1000
    config.rules.threshold = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
    config.rules.published_size = ()
    config.rules.size = (0.25, 0.1, 0.025, 0.01)
    config.rules.compress = (0.1, 0.01)
    return config
