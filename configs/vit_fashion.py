"""Fashion-MNIST, a vision transformer: half of it at a third of a point.

    python -m experiments.main --config=configs/vit_fashion.py --workdir=runs/vit_fashion \
        --data_dir=DIR --sweep=seed=0,1,2

Patches of 7×7 pixels, three blocks of 64 features with feed-forward networks of 256 units
(GELU), 154,954 parameters, trained by Adam. Sizes are shares of what can fold, the feed-forward
networks, and values of attention fold along; ``--config.rules_of=whole`` counts all parameters.
Three seeds (``--config.dataset.rows=12000 --config.training.epochs=6
--config.calibration.rows=2000``, 81.8% right): accuracy, in brackets agreement with the
original. FLOPs go down as parameters do.

    share of what can fold    75%           50%           25%           10%           5%
    of the whole              84%           68%           52%           42%           39%
    size (one shot)           81.8 (99.5)   81.8 (98.9)   81.5 (97.1)   81.1 (95.9)   80.9 (95.1)
    sequential                81.8 (99.6)   81.7 (99.1)   81.5 (97.4)   81.1 (96.2)   80.8 (95.4)
    pruning and refit         81.7 (98.4)   81.4 (96.9)   80.4 (93.4)   77.6 (86.9)   74.4 (82.3)
    magnitude                 80.6 (92.9)   78.5 (88.8)   71.4 (78.7)   64.2 (69.2)   59.8 (64.7)

What values of attention add, on a shortened run
(``--config.dataset.rows=8000 --config.training.epochs=4 --config.calibration.rows=2000
--config.rules_of=whole``, 77.5% right on the first 3,000 test images), accuracy and agreement at
shares of the whole, in one shot, and features left in each head of the three blocks, of 16:

    share of the whole          84%           67%           52%           42%           35%
    feed-forward parts alone    77.6 (99.6)   77.1 (99.0)   77.0 (97.6)   76.9 (95.2)   61.2 (67.3)
    with values of attention    77.5 (99.8)   77.4 (99.3)   77.2 (98.0)   76.8 (96.3)   76.8 (96.1)
    features of each head       16 16 10      16 12 7       15 8 5        14 7 4        12 5 3

The figures are of version 0.1; docs/results.md has those of 0.2.
"""

from configs.common import base

SIZES = (0.75, 0.5, 0.25, 0.1, 0.05)


def compare(config):
    """Sets the rules of a config to all methods for feed-forward networks, at all sizes."""
    config.rules = dict.fromkeys(("size", "sequential", "refit", "magnitude"), SIZES)
    config.rules_of = "foldable"
    return config


def get_config():
    """Returns the config."""
    config = compare(base())
    config.dataset.name = "fashion_mnist"
    config.network.kind = "vit"
    config.network.image = (28, 28, 1)
    config.network.patch = 7
    config.network.width = 64
    config.network.heads = 4
    config.network.ffn = 256
    config.network.blocks = 3
    config.training.batch = 128
    config.training.epochs = 8
    config.training.schedule = "cosine"
    config.calibration.rows = 4000
    config.calibration.batch = 500
    return config
