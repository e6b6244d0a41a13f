"""A ResNet-20 of CIFAR-10 that others trained (91.7% right), and what others do with it.

    python -m experiments.main --config=configs/real_resnet.py --workdir=runs/real_resnet \
        --data_dir=DIR --config.weights=FILE

``FILE`` is an npz of its weights (akamaster/pytorch_resnet_cifar10, BSD) by paths, ``conv/kernel``
and so on, ``DIR`` holds ``cifar10_jpeg.npz``, the JPEG copy, on which it is 80.9% right. Three
draws of 1,000 training images without labels, 1,000 test images. ``--config.rules_of=flops``
compares at equal operations, ``--sweep=calibration.rows=32,128,1000`` few rows.
``docs/real_networks.md`` has the tables.
"""

from configs.real_networks import real


def get_config():
    """Returns the config."""
    config = real("resnet20", (0.83, 0.7, 0.59, 0.5), rows=1000, batch=100)
    config.dataset.name = "cifar10_jpeg"
    return config
