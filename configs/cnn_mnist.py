"""MNIST, a small convolutional network: 98.5% right at a tenth of the size, 98.7% before.

    python -m experiments.main --config=configs/cnn_mnist.py --workdir=runs/cnn_mnist \
        --data_dir=DIR --sweep=seed=0,1,2

Two convolutions of 16 and 32 channels with max pooling, a dense layer of 128 units: 206,922
parameters, trained for three epochs. Channels and dense units share one budget, from one pass
over 4,000 unlabelled rows. Test accuracy and, in brackets, the share of images with the
original's class, by linjax in one shot and by its rivals, which keep the same share of every
layer. Three seeds (``--config.dataset.rows=20000``, 97.9% right), and the share of the floating
point operations:

    size     linjax          FLOPs    pruned, refitted   FLOPs    magnitude
    75%      .979 (1.000)    94%      .978 (.998)        75%      .977
    50%      .979 (1.000)    91%      .978 (.995)        50%      .951
    25%      .979 (.999)     87%      .975 (.991)        28%      .860
    10%      .978 (.996)     51%      .966 (.980)        12%      .510

All rows, one seed, 98.7% right:

    size     linjax           pruned, refitted   magnitude
    10%      .9853 (.9964)    .9757 (.9846)      .5498
     5%      .9820 (.9928)    .9692 (.9782)      .2200
     2.5%    .9755 (.9827)    .9483 (.9557)      .3111

Refitted in order (``--config.rules.sequential=0.1,0.05``), where one shot had .9820 and .9787 on
the first 3,000 test images, it has .9837 and .9817.

``DIR`` holds MNIST as TFDS prepares it; ``TFDS_DATA_DIR`` does as well.

The figures are of version 0.1; docs/results.md has those of 0.2.
"""

from configs.common import base

SIZES = (0.75, 0.5, 0.25, 0.1, 0.05, 0.025)
SLOW = {"sequential": (), "compress": ()}


def compare(config):
    """Sets the rules of a config to all methods for convolutions, at all sizes."""
    config.rules = dict.fromkeys(("size", "refit", "magnitude"), SIZES) | SLOW
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
    return config
