"""CIFAR-10 (JPEG copy), a ResNet-20 with batch norm: its blocks and the width of its stages fold.

    python -m experiments.main --config=configs/resnet_cifar.py --workdir=runs/resnet_cifar \
        --data_dir=DIR --sweep=seed=0,1,2

Channels between the two convolutions of each block fold, and those of a stage over all branches
(not yet in the figures below). Three seeds of a short training
(``--config.dataset.rows=8000 --config.training.epochs=8 --config.calibration.rows=1000``), 273,658
parameters, 60.6% right: accuracy, the share of images with the original's class in brackets, in
one shot, and the share of the floating point operations.

    size     linjax          FLOPs    pruned, refitted   FLOPs    magnitude
    75%      .605 (.977)     90%      .581 (.848)        75%      .184
    50%      .598 (.936)     80%      .507 (.684)        50%      .124
    25%      .571 (.825)     58%      .273 (.325)        26%      .108
    10%      .289 (.332)     36%      .119 (.122)        10%      .100

A network that was hardly trained (36.0% right on the first 3,000 test images): the share of
images with the original's class, accuracy in brackets, in one shot and refitted in order
(``--config.rules.sequential=0.5,0.25,0.1``, two to four minutes each on two busy cores).

    size     one shot        in order        pruned, refitted
    50%      .965 (.358)     .970 (.358)     .630 (.277)
    25%      .892 (.350)     .912 (.351)     .396 (.219)
    10%      .640 (.301)     .715 (.313)     .194 (.135)

``DIR`` holds ``cifar10_jpeg.npz``: JPEG files one after another, as ``experiments.data`` says.

The figures are of version 0.1; docs/results.md has those of 0.2.
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
