"""Fashion-MNIST, a VGG with batch norm: half the size at no loss, which pruning can't do.

    python -m experiments.main --config=configs/vgg_fashion.py --workdir=runs/vgg_fashion \
        --data_dir=DIR

Six convolutions, two each of 16, 32 and 64 channels, with batch norm, a mean, a dense head:
73,114 parameters. Measured on a shortened run (``--config.dataset.rows=6000
--config.training.epochs=3 --config.calibration.rows=2000``, 83.8% right on the first 3,000 test
images), one seed: accuracy and, in brackets, the share of images with the original's class.

    size     linjax           pruned, refitted   magnitude
    75%      .8363 (.9930)    .8330 (.9593)      .4760
    50%      .8373 (.9810)    .8117 (.9097)      .1757
    25%      .8080 (.9187)    .6407 (.7020)      .0997
    10%      .7160 (.7827)    .2620 (.2683)      .0997
     5%      .5580 (.5973)    .1677 (.1650)      .1000

One shot is ``size``. Refitted in order (``--config.rules.sequential=0.25,0.1,0.05``) and then
together (``--config.rules.compress=0.25,0.1``, four to six minutes each on two busy cores), on
the same rows:

    size     in order         together
    50%      .8373 (.9820)
    25%      .8190 (.9443)    .8263 (.9633)
    10%      .7437 (.8283)    .8087 (.9250)
     5%      .6250 (.6813)

``DIR`` holds Fashion-MNIST as TFDS prepares it; ``TFDS_DATA_DIR`` does as well.
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
