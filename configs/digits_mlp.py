"""Scikit-learn's digits, 64-256-256-128-128-10: needs no download.

python -m experiments.main --config=configs/digits_mlp.py --workdir=runs/digits_mlp
"""

from configs.common import base


def get_config():
    """Returns the config."""
    config = base()
    config.network.hidden = (256, 256, 128, 128)
    config.training.epochs = 30
    config.calibration.rows = 1000
    return config
