"""MNIST, a small convolutional network.

    python -m experiments.main --config=configs/cnn_mnist.py --workdir=runs/cnn_mnist --data_dir=DIR

Two convolutions of 16 and 32 channels with max pooling, a dense layer of 128 units.
"""

from configs.common import base

SIZES = (0.75, 0.5, 0.25, 0.1, 0.05)


def compare(config):
    """Sets the rules of a config to all methods for convolutions, at all sizes."""
    config.rules = dict.fromkeys(("size", "refit", "magnitude"), SIZES)
    return config


def get_config():
    """Returns the config."""
    config = compare(base())
    config.dataset.name = "mnist"
    config.network.kind = "cnn"
    config.network.image = (28, 28, 1)
    config.network.channels = (16, 32)
    config.network.hidden = (128,)
    config.network.augment = False
    config.training.batch = 128
    config.training.epochs = 3
    config.calibration.rows = 4000
    config.calibration.batch = 500
    config.rules = dict.fromkeys(("size", "refit", "magnitude"), SIZES)
    return config
