"""Fashion-MNIST, a VGG with batch norm.

    python -m experiments.main --config=configs/vgg_fashion.py --workdir=runs/vgg_fashion \
        --data_dir=DIR

Six convolutions, two each of 32, 64 and 128 channels, batch norm, a mean, a dense head.
"""

from configs.cnn_mnist import compare
from configs.common import base


def get_config():
    """Returns the config."""
    config = compare(base())
    config.dataset.name = "fashion_mnist"
    config.network.kind = "vgg"
    config.network.image = (28, 28, 1)
    config.network.channels = (16, 32, 64)
    config.network.augment = False
    config.training.schedule = "cosine"
    config.training.batch = 128
    config.training.epochs = 4
    config.training.learning_rate = 3e-3
    config.calibration.rows = 4000
    config.calibration.batch = 250
    return config
