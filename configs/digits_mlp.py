"""Digits, 64-256-256-128-128-10: 98.1% right as trained and at a tenth, 97.8% at a hundredth.

    python -m experiments.main --config=configs/digits_mlp.py --workdir=runs/digits_mlp

trains it, folds it by every rule and draws the pictures in about two minutes on two cores.
Nothing is downloaded: the digits come with scikit-learn. The hundredth is by ``compress``; the
published rule needs a third of the parameters for 97.5%. ``make demo`` is this command.
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
