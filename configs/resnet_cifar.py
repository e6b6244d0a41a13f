"""CIFAR-10 (JPEG copy), a ResNet-20 with batch norm.

    python -m experiments.main --config=configs/resnet_cifar.py --workdir=runs/resnet_cifar \
        --data_dir=DIR
"""

from configs.cnn_mnist import compare
from configs.common import base


def get_config():
    """Returns the config."""
    config = compare(base())
    config.dataset.name = "cifar10_jpeg"
    config.network.kind = "resnet"
    config.network.image = (32, 32, 3)
    config.network.channels = (16,)
    config.network.blocks = 3
    config.network.augment = True
    config.training.schedule = "cosine"
    config.training.batch = 128
    config.training.epochs = 6
    config.training.learning_rate = 3e-3
    config.training.patience = 100
    config.calibration.rows = 4000
    config.calibration.batch = 250
    return config
